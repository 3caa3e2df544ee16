//! How values are written: as text, or as the bytes of their type's send function.

/// Format of a value, with the number that PostgreSQL gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    #[default]
    Text = 0,
    Binary = 1,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Binary => "binary",
        }
    }
}

/// From this version on intervals can be infinite. To earlier ones the bytes of such a one are a finite interval.
const INFINITE_INTERVALS_SINCE: u32 = 170_000;
const INTERVAL: u32 = 1186;
const INTERVAL_ARRAY: u32 = 1187;

/// Built-in types (`pg_type.dat`) whose binary form means the same value on every server of the versions that are supported. Not among
/// them:
///
/// - types of users and extensions, domains and enums, whose OIDs are each server's own, and composites, arrays and ranges that
///   carry or imply such OIDs;
/// - `regclass` and its like: as text they are names, in binary form OIDs of the source;
/// - `xml`, whose binary form tells an encoding; `aclitem`, which has no binary form; `refcursor`, whose send function takes another
///   type; `int2vector`, `oidvector` and (PostgreSQL 18) `tsquery`, of which an empty one is sent and not received.
const PORTABLE: &[u32] = &[
    // bool, bytea, "char", name, int8, int2, int4, text, oid, tid, xid, cid, json
    16, 17, 18, 19, 20, 21, 23, 25, 26, 27, 28, 29, 114,
    // point, lseg, path, box, polygon, line, cidr, float4, float8, circle, macaddr8, money, macaddr, inet
    600, 601, 602, 603, 604, 628, 650, 700, 701, 718, 774, 790, 829, 869,
    // bpchar, varchar, date, time, timestamp, timestamptz, interval, timetz, bit, varbit, numeric
    1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700,
    // uuid, txid_snapshot, pg_lsn, tsvector, jsonb, jsonpath, pg_snapshot, xid8
    2950, 2970, 3220, 3614, 3802, 4072, 5038, 5069,
    // Ranges and multiranges of int4, numeric, timestamp, timestamptz, date, int8.
    3904, 3906, 3908, 3910, 3912, 3926, 4451, 4532, 4533, 4534, 4535, 4536,
];

/// Arrays of those types, in the same order.
const PORTABLE_ARRAYS: &[u32] = &[
    1000, 1001, 1002, 1003, 1016, 1005, 1007, 1009, 1028, 1010, 1011, 1012, 199, 1017, 1018, 1019, 1020,
    1027, 629, 651, 1021, 1022, 719, 775, 791, 1040, 1041, 1014, 1015, 1182, 1183, 1115, 1185, 1187, 1270,
    1561, 1563, 1231, 2951, 2949, 3221, 3643, 3807, 4073, 5039, 271, 3905, 3907, 3909, 3911, 3913, 3927,
    6150, 6151, 6152, 6153, 6155, 6157,
];

/// Whether values of this type may travel in binary form.
pub fn is_portable(type_oid: u32) -> bool {
    PORTABLE.contains(&type_oid) || PORTABLE_ARRAYS.contains(&type_oid)
}

/// Whether a server of one version takes what one of another has sent of this type, as `server_version_num` tells them.
pub fn is_portable_between(type_oid: u32, source_version: u32, target_version: u32) -> bool {
    let narrows = source_version >= INFINITE_INTERVALS_SINCE && target_version < INFINITE_INTERVALS_SINCE;
    is_portable(type_oid) && !(narrows && matches!(type_oid, INTERVAL | INTERVAL_ARRAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_array() {
        assert_eq!(PORTABLE.len(), PORTABLE_ARRAYS.len());
        assert!(PORTABLE.iter().all(|oid| !PORTABLE_ARRAYS.contains(oid)));
    }

    #[test]
    fn only_types_that_are_the_same_everywhere_travel_in_binary_form() {
        const REGCLASS: u32 = 2205;
        const PG_CLASS: u32 = 83;
        const XML: u32 = 142;
        for oid in [REGCLASS, 2210, PG_CLASS, XML, 1033, 22, 1013, 1790, 3615, 0, 10_000, 16_384, u32::MAX] {
            assert!(!is_portable(oid), "{oid}");
        }
        for oid in [23, 1007, 1700, 3802, INTERVAL] {
            assert!(is_portable(oid), "{oid}");
        }
    }

    #[test]
    fn infinite_intervals_go_only_where_they_are_known() {
        for (source, target, expected) in [
            (150_000, 150_000, true),
            (150_000, 180_000, true),
            (180_000, 170_000, true),
            (170_000, 160_009, false),
        ] {
            assert_eq!(is_portable_between(INTERVAL, source, target), expected, "{source} to {target}");
            assert!(is_portable_between(1700, source, target));
        }
    }
}
