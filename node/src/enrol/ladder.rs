// SPDX-License-Identifier: Apache-2.0
//! The life of one pod as a ladder: what stands, which rung comes next, and how far a failure takes it down again.
//! Pure: it names the next action, is told how it went, and knows neither kernel nor ztunnel.
//!
//! ```text
//!  Announced   ztunnel knows the pod               ▲ announce │ withdraw
//!  Attached    its packets are captured            │ attach   │ detach
//!  Routed      captured packets find their way     │ route    │ unroute
//!  Recorded    the next agent can undo all above   │ record   ▼ forget
//! ```

/// How far up a pod stands. Absent means: nothing of it is anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Its record is on disk.
    Recorded,
    /// Rules, routes and kernel settings are in its namespace.
    Routed,
    /// The capture programs see its packets.
    Attached,
    /// It is announced to ztunnel.
    Announced,
}

/// One step of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record.
    Record,
    /// Add rules, routes and kernel settings.
    Route,
    /// Attach the programs.
    Attach,
    /// Tell ztunnel.
    Announce,
    /// Have every ztunnel let go.
    Withdraw,
    /// Detach the programs and remove their pins.
    Detach,
    /// Take rules and routes away, put the kernel settings back.
    Unroute,
    /// Remove the record.
    Forget,
}

/// Whether the pod's namespace is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is open.
    Open,
    /// It ended, and its rules with it; what the node keeps about it still has to go.
    Gone,
}

/// What to do, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<E> {
    /// Do this, then report.
    Do(Action),
    /// Captured and served.
    Enrolled,
    /// Captured, not served yet: it has no traffic until ztunnel takes it.
    Pending(E),
    /// Nothing is left of it.
    Removed,
    /// The way up failed; everything this climb had put up is down again.
    Undone {
        /// Which step failed.
        failed: Action,
        /// Why.
        error: E,
        /// What was taken back, in order.
        undone: Vec<Action>,
    },
    /// A step failed and the pod stays where it stands, still captured or half released.
    Stuck {
        /// Which step failed.
        failed: Action,
        /// Why.
        error: E,
        /// The failure on the way up that it wanted to undo, if any.
        before: Option<(Action, E)>,
    },
}

/// One climb, up or down.
#[derive(Clone, Debug)]
pub struct Ladder<E> {
    standing: Option<Rung>,
    /// What stood before this climb. A pod that was captured is not taken down by a failure: it must not be let out
    /// because a repair failed.
    floor: Option<Rung>,
    reach: Reach,
    course: Course<E>,
}

#[derive(Clone, Debug)]
enum Course<E> {
    Up,
    Pending(E),
    /// With the failure that turned it round and what has been undone since; none when asked to go.
    Down(Option<(Action, E, Vec<Action>)>),
    Stuck(Action, E, Option<(Action, E)>),
}

impl<E: Clone> Ladder<E> {
    /// Up to the top. Every rung is made sure of again, also those that stood `before`, because each step is idempotent
    /// and any of them may have been damaged since.
    pub fn up(before: Option<Rung>) -> Self {
        Self { standing: None, floor: before, reach: Reach::Open, course: Course::Up }
    }

    /// Down to nothing, from where it stands.
    pub fn down(standing: Option<Rung>, reach: Reach) -> Self {
        Self { standing, floor: None, reach, course: Course::Down(None) }
    }

    /// How far up it stands now, counting what stood before.
    pub fn standing(&self) -> Option<Rung> {
        match self.course {
            Course::Down(_) => self.standing,
            Course::Up | Course::Pending(_) | Course::Stuck(..) => self.standing.max(self.floor),
        }
    }

    /// What to do now.
    pub fn turn(&self) -> Turn<E> {
        match &self.course {
            Course::Up => self.ascent().map_or(Turn::Enrolled, Turn::Do),
            Course::Pending(error) => Turn::Pending(error.clone()),
            Course::Stuck(failed, error, before) => {
                Turn::Stuck { failed: *failed, error: error.clone(), before: before.clone() }
            }
            Course::Down(cause) => match (self.descent(), cause) {
                (Some(action), _) => Turn::Do(action),
                (None, None) => Turn::Removed,
                (None, Some((failed, error, undone))) => {
                    Turn::Undone { failed: *failed, error: error.clone(), undone: undone.clone() }
                }
            },
        }
    }

    /// The action of the last turn went well.
    pub fn done(&mut self) {
        let Turn::Do(action) = self.turn() else { return };
        self.standing = action.leaves();
        if let Course::Down(Some((_, _, undone))) = &mut self.course {
            undone.push(action);
        }
    }

    /// The action of the last turn failed. It may have been half done.
    pub fn failed(&mut self, error: E) {
        let Turn::Do(action) = self.turn() else { return };
        self.course = match action {
            // Nothing to undo: the pod stays captured and ztunnel is asked again.
            Action::Announce => Course::Pending(error),
            Action::Record | Action::Route | Action::Attach if self.floor >= Some(Rung::Attached) => {
                Course::Stuck(action, error, None)
            }
            Action::Record | Action::Route | Action::Attach => {
                self.floor = None;
                Course::Down(Some((action, error, Vec::new())))
            }
            Action::Withdraw | Action::Detach | Action::Unroute | Action::Forget => {
                let before = match &self.course {
                    Course::Down(Some((failed, cause, _))) => Some((*failed, cause.clone())),
                    Course::Down(None) | Course::Up | Course::Pending(_) | Course::Stuck(..) => None,
                };
                Course::Stuck(action, error, before)
            }
        };
        // What failed halfway stands as far as undoing it is concerned.
        self.standing = match action {
            Action::Record => Some(Rung::Recorded),
            Action::Route => Some(Rung::Routed),
            Action::Attach => Some(Rung::Attached),
            Action::Announce => Some(Rung::Announced),
            Action::Withdraw | Action::Detach | Action::Unroute | Action::Forget => self.standing,
        };
    }

    fn ascent(&self) -> Option<Action> {
        match self.standing {
            None => Some(Action::Record),
            Some(Rung::Recorded) => Some(Action::Route),
            Some(Rung::Routed) => Some(Action::Attach),
            Some(Rung::Attached) => Some(Action::Announce),
            Some(Rung::Announced) => None,
        }
    }

    fn descent(&self) -> Option<Action> {
        match (self.standing?, self.reach) {
            (Rung::Announced, _) => Some(Action::Withdraw),
            (Rung::Attached, _) => Some(Action::Detach),
            (Rung::Routed, Reach::Open) => Some(Action::Unroute),
            (Rung::Routed, Reach::Gone) | (Rung::Recorded, _) => Some(Action::Forget),
        }
    }
}

impl Action {
    /// How far up a pod stands after it.
    fn leaves(self) -> Option<Rung> {
        match self {
            Self::Record | Self::Unroute => Some(Rung::Recorded),
            Self::Route | Self::Detach => Some(Rung::Routed),
            Self::Attach | Self::Withdraw => Some(Rung::Attached),
            Self::Announce => Some(Rung::Announced),
            Self::Forget => None,
        }
    }

    /// In words, to go after "cannot".
    pub fn words(self) -> &'static str {
        match self {
            Self::Record => "write the record",
            Self::Route => "prepare the pod's network namespace",
            Self::Attach => "attach the capture programs",
            Self::Announce => "announce the pod to ztunnel",
            Self::Withdraw => "withdraw the pod from ztunnel",
            Self::Detach => "detach the capture programs",
            Self::Unroute => "restore the pod's network namespace",
            Self::Forget => "remove the record",
        }
    }
}

#[cfg(test)]
mod tests;
