//! What the source's catalog says of a table at one moment, for output plugins that don't say it themselves.

use super::{ReplicaIdentity, Xid};

/// Which transactions a snapshot of the source saw. LSNs can't tell: a commit is in WAL before anybody sees what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleXids {
    /// All before it have ended.
    pub min: Xid,
    /// None from it on has ended.
    pub max: Xid,
    /// Those between the two that have not.
    pub running: Vec<Xid>,
}

impl VisibleXids {
    /// As `pg_snapshot` prints it: `xmin:xmax:xip,xip…` of 64 bits each, of which messages carry the lower half.
    pub fn parse(text: &str) -> Option<VisibleXids> {
        let xid = |text: &str| text.parse::<u64>().ok().map(|xid| Xid(xid as u32));
        let mut parts = text.split(':');
        let (min, max) = (xid(parts.next()?)?, xid(parts.next()?)?);
        let running = parts.next()?.split(',').filter(|text| !text.is_empty());
        Some(VisibleXids { min, max, running: running.map(xid).collect::<Option<_>>()? })
    }

    /// Whether a transaction that is known to have committed was seen.
    pub fn include(&self, xid: Xid) -> bool {
        xid.is_before(self.max) && (xid.is_before(self.min) || !self.running.contains(&xid))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    pub oid: u32,
    /// Ordinary or partitioned, and in the publication.
    pub published: bool,
    /// Has no rows itself; TRUNCATE names it beside its leaves.
    pub partitioned: bool,
    pub identity: ReplicaIdentity,
    /// In their order, generated ones too.
    pub columns: Vec<ColumnFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    pub name: String,
    pub type_oid: u32,
    /// As `format_type` prints it, without modifier.
    pub type_name: String,
    pub type_modifier: i32,
    /// Schema and name of a type that is not built in; of a domain, those of its base type.
    pub user_type: Option<(String, String)>,
    /// Part of the replica identity.
    pub key: bool,
    /// Not published, although the plugin prints it: generated (the target makes it itself), or not among the columns listed.
    pub left_out: bool,
    /// Of a length that varies, so that its value may be stored apart.
    pub toastable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read() {
        let seen = VisibleXids { min: Xid(10), max: Xid(20), running: vec![Xid(10), Xid(14)] };
        assert_eq!(VisibleXids::parse("4294967306:4294967316:4294967306,4294967310"), Some(seen));
        assert_eq!(VisibleXids::parse("7:7:").map(|seen| seen.running.len()), Some(0));
        for text in ["7:7", "", "a:b:", "7:7:x"] {
            assert_eq!(VisibleXids::parse(text), None, "{text}");
        }
    }

    #[test]
    fn visibility_follows_the_snapshot() {
        let seen = VisibleXids { min: Xid(10), max: Xid(15), running: vec![Xid(10), Xid(12)] };
        for (xid, included) in
            [(9, true), (10, false), (11, true), (12, false), (14, true), (15, false), (99, false)]
        {
            assert_eq!(seen.include(Xid(xid)), included, "{xid}");
        }
        let wrapped = VisibleXids { min: Xid(5), max: Xid(5), running: vec![] };
        assert!(wrapped.include(Xid(u32::MAX)) && !wrapped.include(Xid(5)));
    }
}
