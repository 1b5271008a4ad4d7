// SPDX-License-Identifier: Apache-2.0
//! The life of one pod as a ladder: what stands, which rung comes next, and how far a failure takes it down again.
//! Pure: it names the next action, is told how it went, and knows neither kernel nor ztunnel.
//!
//! ```text
//!  Announced   ztunnel knows the pod               ▲ announce │ withdraw
//!  Attached    its packets are captured            │ attach   │ release, or detach
//!  Routed      captured packets find their way     │ route    │ unroute
//!  Recorded    the next agent can undo all above   │ record   ▼ forget, but not a pod that lives on
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
    /// Capture nothing new, and keep what was captured from going on in the open.
    Release,
    /// Detach the programs and remove their pins.
    Detach,
    /// Take rules and routes away, put the kernel settings back.
    Unroute,
    /// Remove the record.
    Forget,
}

/// Why a pod goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It leaves the mesh and lives on: connections that were captured must not go on in the open, so the programs that
    /// see to that, and the record of them, stay until it ends.
    LivesOn,
    /// Everything has to go, now.
    Cleared,
    /// Its namespace ended, and its rules with it; what the node keeps about it has to go.
    Ended,
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
    /// It is out of the mesh; see [`Departure::LivesOn`] for what is left.
    Released,
    /// Nothing is left of it.
    Removed,
    /// The way up failed; everything this climb had put up is down again, as after a departure.
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
    departure: Departure,
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
        Self { standing: None, floor: before, departure: Departure::Cleared, course: Course::Up }
    }

    /// Down, from where it stands.
    pub fn down(standing: Option<Rung>, departure: Departure) -> Self {
        let standing = match departure {
            Departure::LivesOn => standing,
            // What a release left attached has to go as well.
            Departure::Cleared | Departure::Ended => standing.map(|rung| rung.max(Rung::Attached)),
        };
        Self { standing, floor: None, departure, course: Course::Down(None) }
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
                (None, None) if self.standing.is_some() => Turn::Released,
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
                if self.floor.take().is_some() {
                    self.departure = Departure::LivesOn;
                }
                Course::Down(Some((action, error, Vec::new())))
            }
            Action::Withdraw | Action::Release | Action::Detach | Action::Unroute | Action::Forget => {
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
            Action::Withdraw | Action::Release | Action::Detach | Action::Unroute | Action::Forget => {
                self.standing
            }
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
        match (self.standing?, self.departure) {
            (Rung::Announced, _) => Some(Action::Withdraw),
            (Rung::Attached, Departure::LivesOn) => Some(Action::Release),
            (Rung::Attached, Departure::Cleared | Departure::Ended) => Some(Action::Detach),
            (Rung::Routed, Departure::LivesOn | Departure::Cleared) => Some(Action::Unroute),
            (Rung::Routed, Departure::Ended) => Some(Action::Forget),
            (Rung::Recorded, Departure::Cleared | Departure::Ended) => Some(Action::Forget),
            (Rung::Recorded, Departure::LivesOn) => None,
        }
    }
}

impl Action {
    /// How far up a pod stands after it.
    fn leaves(self) -> Option<Rung> {
        match self {
            Self::Record | Self::Unroute => Some(Rung::Recorded),
            Self::Route | Self::Release | Self::Detach => Some(Rung::Routed),
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
            Self::Release => "release the pod from the capture programs",
            Self::Detach => "detach the capture programs",
            Self::Unroute => "restore the pod's network namespace",
            Self::Forget => "remove the record",
        }
    }
}

#[cfg(test)]
mod tests;
