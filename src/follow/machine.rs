//! The modes of a pipeline, as a pure machine: an event in, commands out. No clock, no socket, no task.
//!
//! ```text
//!             sentinel: apply off
//!   prefetch ◄──────────────────┐
//!      │ apply on               │
//!      ▼        log met         │        endpos applied
//!   catchup ──────────────► live ┴──────────────────────► done
//!      ▲                     │                      signal: stopped
//!      └──── tail lost ──────┘
//! ```

use crate::model::Position;

/// Distance at which a live applier has lost the bounded tail and is catching up again.
const TAIL_LOST_BYTES: u64 = 16 << 20;

/// What is shown as the pipeline's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A receiver runs, nothing is applied.
    Prefetch,
    /// A receiver runs, and the target is behind.
    Catchup,
    /// A receiver runs, and the target is near.
    Live,
    Stopped,
    /// Stopped, with endpos reached.
    Done,
}

impl Mode {
    pub const ALL: [Mode; 5] = [Mode::Prefetch, Mode::Catchup, Mode::Live, Mode::Stopped, Mode::Done];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Prefetch => "prefetch",
            Mode::Catchup => "catchup",
            Mode::Live => "live",
            Mode::Stopped => "stopped",
            Mode::Done => "done",
        }
    }
}

/// What one process takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Receive,
    Apply,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Started,
    /// The log is durable up to here.
    Durable(Position),
    /// The target is here and the log, as the applier sees it, there; `met`: it has read all of it.
    Applied {
        position: Position,
        log: Position,
        met: bool,
    },
    /// What the operator wants now.
    Sentinel {
        apply: bool,
        endpos: Option<Position>,
        hold: Option<Position>,
    },
    /// SIGINT or SIGTERM.
    Signal,
    /// The log holds everything up to there.
    ReceiverEnded {
        log: Position,
    },
    ApplierEnded {
        reached: bool,
    },
    /// A stage has ended with a fault that the runner keeps, or what the run is part of has.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    StartReceiver,
    StopReceiver,
    StartApplier,
    StopApplier,
    SetEndpos(Option<Position>),
    /// The applier stands there until it is told otherwise; it goes on to run.
    SetHold(Option<Position>),
    /// Nothing runs any more: end the process.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not this process's.
    Absent,
    Idle,
    Running,
    Stopping,
    /// Did all that it had to do.
    Complete,
}

impl Stage {
    fn is_at_work(self) -> bool {
        matches!(self, Stage::Running | Stage::Stopping)
    }
}

/// State of a pipeline.
#[derive(Clone, Debug)]
pub struct Machine {
    receiver: Stage,
    applier: Stage,
    /// The operator wants changes applied.
    apply: bool,
    endpos: Option<Position>,
    hold: Option<Position>,
    durable: Position,
    applied: Position,
    live: bool,
    stopping: bool,
    finished: bool,
}

impl Machine {
    pub fn new(role: Role, apply: bool, endpos: Option<Position>) -> Machine {
        let stage = |present| if present { Stage::Idle } else { Stage::Absent };
        Machine {
            receiver: stage(role != Role::Apply),
            applier: stage(role != Role::Receive),
            apply,
            endpos,
            hold: None,
            durable: Position::ZERO,
            applied: Position::ZERO,
            live: false,
            stopping: false,
            finished: false,
        }
    }

    /// The same, with an applier that is held from the first.
    pub fn held_at(self, hold: Option<Position>) -> Machine {
        Machine { hold, ..self }
    }

    /// Whether the applier has come to where it is held.
    pub fn is_held(&self) -> bool {
        self.applier == Stage::Running && self.hold.is_some_and(|hold| self.applied >= hold)
    }

    pub fn mode(&self) -> Mode {
        match (self.finished, self.applier) {
            (true, _) if self.stopping => Mode::Stopped,
            (true, _) => Mode::Done,
            (_, Stage::Absent) => Mode::Prefetch,
            _ if !self.apply => Mode::Prefetch,
            _ if self.live => Mode::Live,
            _ => Mode::Catchup,
        }
    }

    pub fn durable(&self) -> Position {
        self.durable
    }

    pub fn applied(&self) -> Position {
        self.applied
    }

    pub fn step(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.finished {
            return commands;
        }
        match event {
            Event::Started => {
                commands.push(Command::SetEndpos(self.endpos));
                if self.hold.is_some() {
                    commands.push(Command::SetHold(self.hold));
                }
                if self.receiver == Stage::Idle {
                    self.receiver = Stage::Running;
                    commands.push(Command::StartReceiver);
                }
            }
            Event::Durable(position) => self.durable = self.durable.max(position),
            Event::Applied { position, log, met } => {
                self.applied = self.applied.max(position);
                // Told by different tasks; what is applied was durable before.
                self.durable = self.durable.max(log).max(self.applied);
                self.live |= met;
            }
            Event::Sentinel { apply, endpos, hold } => {
                self.apply = apply;
                if hold != self.hold {
                    self.hold = hold;
                    commands.push(Command::SetHold(hold));
                }
                if endpos != self.endpos {
                    self.endpos = endpos;
                    commands.push(Command::SetEndpos(endpos));
                    self.resume_from_endpos(&mut commands);
                }
            }
            Event::ReceiverEnded { log } => {
                self.receiver = if self.stopping { Stage::Idle } else { Stage::Complete };
                // It may have been on its way out when endpos was moved.
                if !self.stopping && self.endpos.is_none_or(|endpos| log < endpos) {
                    self.resume_from_endpos(&mut commands);
                }
            }
            Event::ApplierEnded { reached } => {
                self.applier = if reached { Stage::Complete } else { Stage::Idle };
                self.live = false;
            }
            Event::Signal | Event::Failed => self.stopping = true,
        }
        self.live &= self.durable.bytes_since(self.applied) <= TAIL_LOST_BYTES;
        self.drive(&mut commands);
        commands
    }

    /// endpos was moved: stages that had reached the old one go on.
    fn resume_from_endpos(&mut self, commands: &mut Vec<Command>) {
        if self.receiver == Stage::Complete {
            self.receiver = Stage::Running;
            commands.push(Command::StartReceiver);
            // It reads from the memory of the receiver that has ended.
            if self.applier == Stage::Running {
                self.applier = Stage::Stopping;
                commands.push(Command::StopApplier);
            }
        }
        if self.applier == Stage::Complete {
            self.applier = Stage::Idle;
        }
    }

    /// Brings the stages to where they should be.
    fn drive(&mut self, commands: &mut Vec<Command>) {
        if self.stopping && self.receiver == Stage::Running {
            self.receiver = Stage::Stopping;
            commands.push(Command::StopReceiver);
        }
        let wanted = self.apply && !self.stopping;
        match self.applier {
            Stage::Running if !wanted => {
                self.applier = Stage::Stopping;
                commands.push(Command::StopApplier);
            }
            Stage::Idle if wanted => {
                self.applier = Stage::Running;
                commands.push(Command::StartApplier);
            }
            _ => {}
        }
        let at_work = self.receiver.is_at_work() || self.applier.is_at_work();
        let complete = |stage| matches!(stage, Stage::Absent | Stage::Complete);
        if !at_work && (self.stopping || complete(self.receiver) && complete(self.applier)) {
            self.finished = true;
            commands.push(Command::Finish);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Event = Event::Sentinel { apply: true, endpos: None, hold: None };
    const OFF: Event = Event::Sentinel { apply: false, endpos: None, hold: None };

    #[track_caller]
    fn check(machine: &mut Machine, script: &[(Event, &[Command], Mode)]) {
        for (event, commands, mode) in script {
            assert_eq!(machine.step(*event), *commands, "{event:?}");
            assert_eq!(machine.mode(), *mode, "{event:?}");
        }
    }

    fn applied(position: u64, met: bool) -> Event {
        Event::Applied { position: Position(position), log: Position(position), met }
    }

    #[test]
    fn catches_up_goes_live_and_stops() {
        use Command::*;
        let mut machine = Machine::new(Role::Both, true, None);
        let far = TAIL_LOST_BYTES + 101;
        check(
            &mut machine,
            &[
                (Event::Started, &[SetEndpos(None), StartReceiver, StartApplier], Mode::Catchup),
                (Event::Durable(Position(100)), &[], Mode::Catchup),
                (applied(50, false), &[], Mode::Catchup),
                (applied(100, true), &[], Mode::Live),
                (Event::Durable(Position(200)), &[], Mode::Live),
                (Event::Durable(Position(far)), &[], Mode::Catchup),
                (applied(far, true), &[], Mode::Live),
                (Event::Signal, &[StopReceiver, StopApplier], Mode::Live),
                (Event::ReceiverEnded { log: Position(100) }, &[], Mode::Live),
                (Event::ApplierEnded { reached: false }, &[Finish], Mode::Stopped),
            ],
        );
    }

    #[test]
    fn prefetches_until_it_may_apply() {
        use Command::*;
        let mut machine = Machine::new(Role::Both, false, None);
        check(
            &mut machine,
            &[
                (Event::Started, &[SetEndpos(None), StartReceiver], Mode::Prefetch),
                (ON, &[StartApplier], Mode::Catchup),
                (OFF, &[StopApplier], Mode::Prefetch),
                (ON, &[], Mode::Catchup),
                (Event::ApplierEnded { reached: false }, &[StartApplier], Mode::Catchup),
            ],
        );
    }

    #[test]
    fn is_done_when_both_have_reached_endpos() {
        use Command::*;
        let endpos = Some(Position(100));
        let mut machine = Machine::new(Role::Both, true, endpos);
        check(
            &mut machine,
            &[
                (Event::Started, &[SetEndpos(endpos), StartReceiver, StartApplier], Mode::Catchup),
                (Event::ReceiverEnded { log: Position(100) }, &[], Mode::Catchup),
                (Event::ApplierEnded { reached: true }, &[Finish], Mode::Done),
            ],
        );
    }

    #[test]
    fn endpos_reached_with_apply_off_waits_for_the_operator() {
        use Command::*;
        let endpos = Some(Position(100));
        let mut machine = Machine::new(Role::Both, false, endpos);
        check(
            &mut machine,
            &[
                (Event::Started, &[SetEndpos(endpos), StartReceiver], Mode::Prefetch),
                (Event::ReceiverEnded { log: Position(100) }, &[], Mode::Prefetch),
                (Event::Sentinel { apply: true, endpos, hold: None }, &[StartApplier], Mode::Catchup),
                (Event::ApplierEnded { reached: true }, &[Finish], Mode::Done),
            ],
        );
    }

    #[test]
    fn an_endpos_that_is_moved_lets_all_go_on() {
        use Command::*;
        let (near, far) = (Some(Position(100)), Some(Position(200)));
        let mut machine = Machine::new(Role::Both, true, near);
        check(
            &mut machine,
            &[
                (Event::Started, &[SetEndpos(near), StartReceiver, StartApplier], Mode::Catchup),
                (Event::ReceiverEnded { log: Position(100) }, &[], Mode::Catchup),
                (
                    Event::Sentinel { apply: true, endpos: far, hold: None },
                    &[SetEndpos(far), StartReceiver, StopApplier],
                    Mode::Catchup,
                ),
                (Event::ApplierEnded { reached: false }, &[StartApplier], Mode::Catchup),
                (Event::ReceiverEnded { log: Position(200) }, &[], Mode::Catchup),
                (Event::ApplierEnded { reached: true }, &[Finish], Mode::Done),
            ],
        );
    }

    #[test]
    fn a_hold_is_passed_on_and_changes_nothing_else() {
        use Command::*;
        let hold = Some(Position(100));
        let held = Event::Sentinel { apply: true, endpos: None, hold };
        let mut machine = Machine::new(Role::Both, true, None).held_at(hold);
        check(
            &mut machine,
            &[
                (
                    Event::Started,
                    &[SetEndpos(None), SetHold(hold), StartReceiver, StartApplier],
                    Mode::Catchup,
                ),
                (applied(90, true), &[], Mode::Live),
                (held, &[], Mode::Live),
            ],
        );
        assert!(!machine.is_held());
        check(&mut machine, &[(applied(100, true), &[], Mode::Live)]);
        assert!(machine.is_held());
        check(&mut machine, &[(ON, &[SetHold(None)], Mode::Live)]);
        assert!(!machine.is_held());
        check(
            &mut machine,
            &[
                (held, &[SetHold(hold)], Mode::Live),
                (Event::Signal, &[StopReceiver, StopApplier], Mode::Live),
            ],
        );
    }

    #[test]
    fn a_fault_of_one_stage_stops_the_other() {
        use Command::*;
        let mut machine = Machine::new(Role::Both, true, None);
        machine.step(Event::Started);
        assert_eq!(machine.step(Event::Failed), [StopReceiver, StopApplier]);
        assert_eq!(machine.step(Event::ApplierEnded { reached: false }), []);
        assert_eq!(machine.step(Event::ReceiverEnded { log: Position(100) }), [Finish]);
        assert_eq!(machine.step(Event::Signal), []);
    }

    proptest::proptest! {
        #[test]
        fn positions_stay_in_order_and_no_stage_starts_twice(
            choices in proptest::collection::vec((0u8..8, 0u64..(TAIL_LOST_BYTES * 3)), 0..200)
        ) {
            let mut machine = Machine::new(Role::Both, true, None);
            let (mut receiver, mut applier, mut finished) = (false, false, false);
            let mut pending = vec![Event::Started];
            for (choice, number) in choices {
                pending.push(match choice {
                    0 | 1 => Event::Durable(Position(number)),
                    2 | 3 => Event::Applied { position: Position(number), log: Position(0), met: number % 2 == 0 },
                    4 => Event::Sentinel {
                        apply: number % 2 == 0,
                        endpos: (number % 3 == 0).then_some(Position(number)),
                        hold: (number % 5 == 0).then_some(Position(number)),
                    },
                    5 if receiver => { receiver = false; Event::ReceiverEnded { log: Position(number) } }
                    6 if applier => { applier = false; Event::ApplierEnded { reached: number % 2 == 0 } }
                    7 if number % 50 == 0 => Event::Signal,
                    _ => continue,
                });
                for event in pending.drain(..) {
                    for command in machine.step(event) {
                        assert!(!finished, "{command:?} after the end");
                        match command {
                            Command::StartReceiver => assert!(!std::mem::replace(&mut receiver, true)),
                            Command::StartApplier => assert!(!std::mem::replace(&mut applier, true)),
                            Command::StopReceiver => assert!(receiver),
                            Command::StopApplier => assert!(applier),
                            Command::SetEndpos(_) | Command::SetHold(_) => {}
                            Command::Finish => { assert!(!receiver && !applier); finished = true; }
                        }
                    }
                    assert!(machine.applied() <= machine.durable());
                }
            }
        }
    }
}
