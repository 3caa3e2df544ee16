//! A source, a target with the same tables, and the program set up between them.

use std::time::Duration;

use super::process::{Outcome, Running};
use super::{Cluster, Pgsluice, assert_tables_equal, seconds, wait_until};

pub struct Road {
    pub source: Cluster,
    pub target: Cluster,
    pub program: Pgsluice,
}

impl Road {
    /// The same schema (and rows) on both sides.
    pub fn new(schema: &str) -> Road {
        Road::with(schema, schema)
    }

    pub fn with(source_schema: &str, target_schema: &str) -> Road {
        Road::between(Cluster::source(), Cluster::target(), source_schema, target_schema)
    }

    pub fn between(source: Cluster, target: Cluster, source_schema: &str, target_schema: &str) -> Road {
        source.run_script(source_schema);
        target.run_script(target_schema);
        let program = Pgsluice::between(&source, &target);
        Road::of(source, target, program)
    }

    /// As [`Road::with`], with settings in the environment of every command.
    pub fn with_settings(source_schema: &str, target_schema: &str, settings: &[(&str, &str)]) -> Road {
        let (source, target) = (Cluster::source(), Cluster::target());
        source.run_script(source_schema);
        target.run_script(target_schema);
        let program = Pgsluice::between(&source, &target);
        let program = settings.iter().fold(program, |program, (name, value)| program.env(name, value));
        Road::of(source, target, program)
    }

    fn of(source: Cluster, target: Cluster, program: Pgsluice) -> Road {
        program.run(&["setup", "--keyless", "full"]).done();
        Road { source, target, program }
    }

    /// With pgbench's tables on both sides.
    pub fn pgbench() -> Road {
        let (source, target) = (Cluster::source(), Cluster::target());
        source.pgbench(&["-i", "-q", "-s", "1"]);
        target.copy_from(&source);
        Road::between(source, target, "", "")
    }

    /// Runs a script on the source.
    #[track_caller]
    pub fn change(&self, sql: &str) {
        self.source.run_script(sql);
    }

    /// Brings over all that is committed, and compares.
    #[track_caller]
    pub fn arrives(&self) {
        self.source.rests();
        self.program.follow_to_current();
        assert_tables_equal(&self.source, &self.target);
    }

    /// `follow` in the background, returned when the slot is in use.
    #[track_caller]
    pub fn follow(&self) -> Running {
        let mut running = self.program.start(&["follow"]);
        let active = "select active from pg_replication_slots where slot_name = 'pgsluice'";
        wait_until(seconds(20), "the slot is in use", || {
            assert!(running.is_running(), "follow ended by itself: {}", running.log());
            self.source.value(active) == "t"
        });
        running
    }

    /// Sets endpos from outside, and waits for the end that comes of it; then both sides are equal.
    #[track_caller]
    pub fn finish(&self, running: Running) -> Outcome {
        self.source.rests();
        self.program.run(&["sentinel", "set", "endpos", "current"]).done();
        let outcome = running.wait(Duration::from_secs(120)).done();
        assert_tables_equal(&self.source, &self.target);
        outcome
    }

    /// Waits until a query gives on the target what it gives on the source.
    #[track_caller]
    pub fn wait_for(&self, sql: &str) {
        let (source, target) = (self.source.session(), self.target.session());
        wait_until(seconds(60), sql, || source.query(sql) == target.query(sql));
    }
}
