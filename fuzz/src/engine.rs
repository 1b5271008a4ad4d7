// SPDX-License-Identifier: Apache-2.0
//! libFuzzer around one target. It has the program's `main` and reads the arguments; the last one is the target's name,
//! after `-ignore_remaining_args=1`.

use std::sync::LazyLock;

use fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::args().next_back().unwrap_or_default();
    fuzz::target(&name).expect("the last argument is a target's name")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (TARGET.run)(bytes);
});
