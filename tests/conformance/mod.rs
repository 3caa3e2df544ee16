//! What PostgreSQL can say, case by case, through every output plugin and every server version at hand.
//!
//! The cases are files (`cases/README.md`); here is what runs them, and `docs/CONFORMANCE.md`, which lists how each fared.

#![allow(unreachable_pub)]

mod case;
mod document;
mod run;

use crate::support::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Pgoutput,
    TestDecoding,
    Wal2json,
}

impl Plugin {
    pub const ALL: [Plugin; 3] = [Plugin::Pgoutput, Plugin::TestDecoding, Plugin::Wal2json];

    pub fn name(self) -> &'static str {
        match self {
            Plugin::Pgoutput => "pgoutput",
            Plugin::TestDecoding => "test_decoding",
            Plugin::Wal2json => "wal2json",
        }
    }

    /// wal2json is a package of its own.
    fn is_at_hand(self, version: &Version) -> bool {
        self != Plugin::Wal2json || version.bin.join("../lib/wal2json.so").exists()
    }

    pub fn named(name: &str) -> Option<Plugin> {
        Plugin::ALL.into_iter().find(|plugin| plugin.name() == name)
    }
}

/// What a run of all cases goes through.
pub struct Lane {
    pub plugin: Plugin,
    pub version: Version,
}

/// A test for each plugin and version. One whose server or plugin is not at hand has nothing to show, and says so.
macro_rules! lanes {
    ($($name:ident: $plugin:ident $major:literal;)*) => {
        $(#[test]
        fn $name() {
            let (plugin, version) = (Plugin::$plugin, Version::find($major));
            match version.filter(|version| plugin.is_at_hand(version)) {
                Some(version) => run::all(Lane { plugin, version }),
                None => eprintln!("{} of PostgreSQL {} is not at hand", plugin.name(), $major),
            }
        })*
    };
}

lanes! {
    pgoutput_of_14: Pgoutput 14;
    pgoutput_of_15: Pgoutput 15;
    pgoutput_of_16: Pgoutput 16;
    pgoutput_of_17: Pgoutput 17;
    pgoutput_of_18: Pgoutput 18;
    test_decoding_of_14: TestDecoding 14;
    test_decoding_of_15: TestDecoding 15;
    test_decoding_of_16: TestDecoding 16;
    test_decoding_of_17: TestDecoding 17;
    test_decoding_of_18: TestDecoding 18;
    wal2json_of_14: Wal2json 14;
    wal2json_of_15: Wal2json 15;
    wal2json_of_16: Wal2json 16;
    wal2json_of_17: Wal2json 17;
    wal2json_of_18: Wal2json 18;
}
