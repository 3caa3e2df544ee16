//! Columns that come, go and change; and what users made on view and tables stays.

use super::log::{INT4, INT8, Log, TEXT, plain, table, texts, version};
use super::{progress, seen};
use crate::support::Cluster;

/// Owner, grants, comments and options of the view, and what the view's table has.
fn kept(target: &Cluster) -> Vec<String> {
    let of_view = "select c.relowner::regrole || ' ' || coalesce(array_to_string(c.reloptions, ','), '-') || ' ' || coalesce(obj_description(c.oid), '-')
                     from pg_class c where c.oid = 's.t'::regclass";
    let grants = "select string_agg(format('%s %s %s', case grantee when 0 then 'PUBLIC' else grantee::regrole::text end, privilege_type, is_grantable), ', '
                                    order by grantee::regrole::text, privilege_type)
                    from pg_class, aclexplode(relacl) where oid = 's.t'::regclass";
    let columns = "select string_agg(format('%s %s %s', attname, coalesce(attacl::text, '-'), coalesce(col_description(attrelid, attnum), '-')), ', ' order by attname)
                     from pg_attribute where attrelid = 's.t'::regclass and attnum > 0 and attname in ('id', 'ver')";
    [of_view, grants, columns].map(|query| target.value(query)).into()
}

/// Definitions of the indexes and constraints of the table that the view shows, without names.
fn indexes(target: &Cluster) -> String {
    let shown = target.value("select 's.' || shown from pgsluice.snapshot where view_name = 't'");
    target.value(&format!(
        "select string_agg(d, '; ' order by d) from (
             select regexp_replace(pg_get_indexdef(indexrelid), 'INDEX .* USING', 'INDEX USING') d from pg_index where indrelid = '{shown}'::regclass
             union all select pg_get_constraintdef(oid) from pg_constraint where conrelid = '{shown}'::regclass and contype = 'c') x"
    ))
}

#[test]
fn grants_owner_comments_options_and_indexes_stay_whatever_becomes_of_the_columns() {
    let target = Cluster::target();
    target.run_script("create role boss; create role anna; create role bert; alter default privileges grant select on tables to bert");
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, 100));
    log.apply();
    target.run_script(
        "alter view s.t set (security_barrier = true);
         grant all on schema s to boss; grant usage on schema s to bert;
         alter view s.t owner to boss; grant select on s.t__a to boss;"
            .replace(", s.t__b", "")
            .as_str(),
    );
    target.run_script(
        "revoke all on s.t from bert; grant select on s.t to anna with grant option; grant select (id, ver) on s.t to bert; grant select on s.t to public;
         comment on view s.t is 'it''s ours'; comment on column s.t.ver is 'the version';
         alter table s.t__a add primary key (id); create index on s.t__a (ver, note desc) where ver > 0; create unique index on s.t__a (lower(note));
         alter table s.t__a add check (ver > 0); grant update on s.t__a to anna; comment on table s.t__a is 'rows';
         revoke select on s.t__a from bert; alter table s.t__a alter note set storage external",
    );
    let (before, with) = (kept(&target), indexes(&target));
    assert!(before[0].starts_with("boss security_barrier=true it's ours"), "{before:?}");
    let columns_of = |log: &mut Log, columns: &[(&str, u32, i32)], rows: &[&[&str]]| {
        log.snapshot(&table(100, "t", columns), texts(rows));
        log.apply();
    };
    // The same columns.
    for ver in 2..=4 {
        log.snapshot(&plain(), version(ver, 50));
        log.apply();
        assert_eq!(seen(&target), format!("50 {ver} {ver}"));
        assert_eq!((kept(&target), indexes(&target)), (before.clone(), with.clone()), "{ver}");
    }
    let of_table = "select format('%s %s %s %s', relname, relacl, obj_description(oid), (select attstorage from pg_attribute where attrelid = c.oid and attname = 'note'))
                      from pg_class c where relname in ('t__a', 't__b') order by relname";
    let rows = target.query(of_table);
    assert_eq!(
        rows[0][0].as_ref().unwrap().replace("t__a", ""),
        rows[1][0].as_ref().unwrap().replace("t__b", "")
    );
    assert!(rows[0][0].as_ref().unwrap().contains("anna=w"), "{rows:?}");
    // One more at the end.
    let more = [("id", INT8, -1), ("ver", INT4, -1), ("note", TEXT, -1), ("more", 1082, -1)];
    for ver in ["5", "6"] {
        columns_of(&mut log, &more, &[&["1", ver, "n", "2026-01-01"]]);
        assert_eq!((kept(&target), indexes(&target)), (before.clone(), with.clone()));
    }
    assert_eq!(target.value("select more from s.t"), "2026-01-01");
    // One less, in the middle; others change places.
    let less = [("more", 1082, -1), ("ver", INT4, -1), ("id", INT8, -1)];
    for ver in ["7", "8", "9"] {
        columns_of(&mut log, &less, &[&["2026-01-02", ver, "1"]]);
        assert_eq!(kept(&target), before);
    }
    assert_eq!(target.query("select * from s.t"), texts(&[&["2026-01-02", "9", "1"]]));
    let left: Vec<_> = with.split("; ").filter(|definition| !definition.contains("note")).collect();
    assert_eq!(indexes(&target), left.join("; "));
    assert_eq!(left.len(), 2, "{with}");
    // Another type: what it is keeps its index.
    let retyped = [("more", TEXT, -1), ("ver", INT4, -1), ("id", 1700, -1)];
    for ver in ["10", "11"] {
        columns_of(&mut log, &retyped, &[&["x", ver, "1.5"]]);
        assert_eq!((kept(&target), indexes(&target)), (before.clone(), left.join("; ")));
    }
    assert_eq!(target.query("select * from s.t"), texts(&[&["x", "11", "1.5"]]));
    // And one that an index of it can't be of.
    target.run_script(
        "create index on s.t__a (more text_pattern_ops); create index on s.t__b (more text_pattern_ops)",
    );
    let retyped = [("more", INT4, -1), ("ver", INT4, -1), ("id", 1700, -1)];
    for ver in ["12", "13"] {
        columns_of(&mut log, &retyped, &[&["5", ver, "1.5"]]);
        assert_eq!((kept(&target), indexes(&target)), (before.clone(), left.join("; ")));
    }
    assert_eq!(target.value("set role bert; select ver from s.t"), "13");
}

#[test]
fn a_view_with_dependents_takes_columns_at_its_end_and_nothing_else() {
    let target = Cluster::target();
    let mut log = Log::to(&target);
    log.snapshot(&plain(), version(1, 5));
    log.apply();
    target.run_script(
        "create view s.upon as select id, note from s.t; create function s.f() returns setof s.t language sql as 'select * from s.t'",
    );
    let more = [("id", INT8, -1), ("ver", INT4, -1), ("note", TEXT, -1), ("more", 1082, -1)];
    log.snapshot(&table(100, "t", &more), texts(&[&["1", "2", "n", "2026-01-01"]]));
    log.apply();
    assert_eq!(target.value("select note from s.upon"), "n");
    let before = progress(&target);
    let other = [("id", INT8, -1), ("ver", INT8, -1), ("note", TEXT, -1)];
    log.snapshot(&table(100, "t", &other), texts(&[&["1", "3", "m"]]));
    let said = log.refused();
    assert!(
        said.contains("view s.upon") && said.contains("function s.f()") && said.contains("drop what depends"),
        "{said}"
    );
    assert_eq!((target.value("select note from s.upon"), progress(&target)), ("n".into(), before));
    assert_eq!(target.value("select more from s.t"), "2026-01-01");
    target.run_script("drop view s.upon; drop function s.f()");
    log.apply();
    assert_eq!(target.query("select * from s.t"), texts(&[&["1", "3", "m"]]));

    // What would go unseen with the view.
    target.run_script(
        "create function s.no() returns trigger language plpgsql as 'begin return null; end';
         create trigger no instead of insert on s.t for each row execute function s.no()",
    );
    log.snapshot(&plain(), version(4, 5));
    let said = log.refused();
    assert!(said.contains("trigger no on view s.t"), "{said}");
    target.run_script("drop trigger no on s.t");
    // What depends on a table behind the view, and needs a column that is gone.
    target.run_script("create view s.behind as select more from s.t__b");
    let said = log.refused();
    assert!(said.contains("snapshot of s.t") && said.contains("depend"), "{said}");
    target.run_script("drop view s.behind");
    log.apply();
    assert_eq!(seen(&target), "5 4 4");
}
