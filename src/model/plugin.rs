//! The output plugins whose slots can be read.

use std::fmt;
use std::str::FromStr;

/// What the source's slot speaks. In the log all of it is pgoutput.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputPlugin {
    #[default]
    Pgoutput,
    TestDecoding,
    Wal2json,
}

impl OutputPlugin {
    pub const ALL: [OutputPlugin; 3] =
        [OutputPlugin::Pgoutput, OutputPlugin::TestDecoding, OutputPlugin::Wal2json];

    /// As PostgreSQL calls it.
    pub fn name(self) -> &'static str {
        match self {
            OutputPlugin::Pgoutput => "pgoutput",
            OutputPlugin::TestDecoding => "test_decoding",
            OutputPlugin::Wal2json => "wal2json",
        }
    }
}

impl fmt::Display for OutputPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin '{0}' is not supported: this version decodes pgoutput, test_decoding and wal2json")]
pub struct UnknownPlugin(String);

impl FromStr for OutputPlugin {
    type Err = UnknownPlugin;

    fn from_str(text: &str) -> Result<OutputPlugin, UnknownPlugin> {
        let found = OutputPlugin::ALL.into_iter().find(|plugin| plugin.name() == text);
        found.ok_or_else(|| UnknownPlugin(text.to_owned()))
    }
}
