//! What the two tables behind a view are called. Pure.

/// PostgreSQL cuts longer names off (`NAMEDATALEN`).
const NAME_BYTES_MAX: usize = 63;

/// The names of both, of at most 63 bytes. Where the view's is cut for that, a checksum of it keeps the tables of two views apart.
pub(super) fn tables_of(view: &str) -> [String; 2] {
    ["__a", "__b"].map(|ending| {
        if view.len() + ending.len() <= NAME_BYTES_MAX {
            return format!("{view}{ending}");
        }
        let sum = format!("_{:08x}", crc32c::crc32c(view.as_bytes()));
        let room = NAME_BYTES_MAX - sum.len() - ending.len();
        let fits = |at: &usize| *at <= room;
        let cut = view.char_indices().map(|(at, _)| at).take_while(fits).last().unwrap_or_default();
        format!("{}{sum}{ending}", view.get(..cut).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(tables_of("t"), ["t__a", "t__b"]);
        assert_eq!(tables_of(&"x".repeat(60)).map(|name| name.len()), [63, 63]);
        for view in ["y".repeat(61), "y".repeat(63), "ä".repeat(31), format!("y{}", "漢".repeat(20))] {
            let other = format!("{}z", view.strip_suffix(|_: char| true).unwrap());
            let names = tables_of(&view);
            assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX && name.len() > 55), "{names:?}");
            assert_ne!(names[0], names[1]);
            assert_ne!(names, tables_of(&other));
            assert!(view.starts_with(
                names[0].rsplit_once('_').unwrap().0.rsplit_once('_').unwrap().0.rsplit_once('_').unwrap().0
            ));
        }
    }
}
