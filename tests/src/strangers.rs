// SPDX-License-Identifier: Apache-2.0
//! Clients that are not ours and are in no package: built from their Go modules into the cache, the first time they are
//! asked for.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::config::cache_folder;

/// Such a program.
#[derive(Clone, Copy, Debug)]
pub struct Stranger {
    name: &'static str,
    module: &'static str,
    version: &'static str,
}

/// Checks a server of HTTP/2 against RFC 9113 and RFC 7541.
pub const H2SPEC: Stranger = Stranger {
    name: "h2spec",
    module: "github.com/summerwind/h2spec/cmd/h2spec",
    version: "v2.2.1+incompatible",
};
/// curl for gRPC, on grpc-go.
pub const GRPCURL: Stranger =
    Stranger { name: "grpcurl", module: "github.com/fullstorydev/grpcurl/cmd/grpcurl", version: "v1.9.3" };

impl Stranger {
    /// Where it is.
    ///
    /// # Errors
    /// When it is not there and cannot be built; with the command.
    pub fn ensure(&self) -> Result<PathBuf> {
        let Self { name, module, version } = self;
        let folder = cache_folder()?.join(format!("{name}-{}", version.trim_start_matches('v')));
        let program = folder.join(name);
        if !program.exists() {
            let wanted = format!("{module}@{version}");
            let command = format!("{name} is needed: GOBIN={} go install {wanted}", folder.display());
            let built = Command::new("go").args(["install", &wanted]).env("GOBIN", &folder).output();
            let built = built.with_context(|| command.clone())?;
            ensure!(built.status.success(), "{command}: {}", String::from_utf8_lossy(&built.stderr));
        }
        Ok(program)
    }
}
