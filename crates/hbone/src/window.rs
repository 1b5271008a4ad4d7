// SPDX-License-Identifier: Apache-2.0
//! How large the connection's receive window should be. HTTP/2 counts every stream's unread bytes against it, so a few
//! streams whose readers stand still would stop all others: what they hold is added to it, up to a limit.

/// The window follows in steps of this size (a stream's window), so that a flow that merely breathes does not move it.
pub(crate) const STEP: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Window {
    base: u32,
    limit: u32,
    target: u32,
}

impl Window {
    pub(crate) fn new(base: u32, limit: u32) -> Self {
        Self { base, limit: limit.max(base), target: base }
    }

    /// The new target when `held` bytes wait for their readers; none when it stays.
    pub(crate) fn follow(&mut self, held: u64) -> Option<u32> {
        let extra = u32::try_from(held / STEP * STEP).unwrap_or(u32::MAX);
        let wanted = self.base.saturating_add(extra).min(self.limit);
        let lingering = u64::from(wanted) + STEP >= u64::from(self.target);
        if wanted == self.target || (wanted < self.target && lingering && wanted > self.base) {
            return None;
        }
        self.target = wanted;
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_what_is_held_and_shrinks_reluctantly() {
        const MIB: u64 = 1024 * 1024;
        let mut window = Window::new(16 << 20, 40 << 20);
        for (held, target) in [
            (0, None),
            (3, None),
            (4, Some(20)),
            (7, None),
            (16, Some(32)),
            (13, None),
            (8, Some(24)),
            (100, Some(40)),
            (1000, None),
            (3, Some(16)),
            (0, None),
        ] {
            assert_eq!(window.follow(held * MIB), target.map(|target: u32| target << 20), "{held}");
        }
    }
}
