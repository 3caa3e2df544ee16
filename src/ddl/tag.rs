//! A statement's command tag, from its words, and whether event triggers fire for it (PostgreSQL's manual, "Event Trigger Firing
//! Matrix"; utility.c, `CreateCommandTag`).

use super::split::Statement;

/// What a statement is to the event triggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// They fire, with this tag.
    Ddl(String),
    /// It begins or ends a transaction.
    Boundary,
    /// They don't fire, or what they tell is not asked for.
    Other,
}

/// Tags of what is not brought to the target: privileges and owners are its own, indexes need no rebuilding.
pub(super) fn is_passed_over(tag: &str) -> bool {
    matches!(
        tag,
        "GRANT"
            | "REVOKE"
            | "REINDEX"
            | "ALTER DEFAULT PRIVILEGES"
            | "SECURITY LABEL"
            | "REASSIGN OWNED"
            | "CREATE PUBLICATION"
            | "ALTER PUBLICATION"
            | "DROP PUBLICATION"
    )
}

pub(super) fn command(statement: &Statement<'_>) -> Command {
    let words = statement.leading_words();
    let Some((first, rest)) = words.split_first() else { return Command::Other };
    let second = rest.first().copied().unwrap_or_default();
    let tag = match *first {
        "create" => create(statement, rest),
        "alter" | "drop" => object(rest).map(|object| format!("{} {object}", first.to_uppercase())),
        "comment" => {
            let silent = matches!(rest, ["on", "database" | "role" | "tablespace", ..])
                || matches!(rest, ["on", "event", "trigger", ..]);
            (!silent).then(|| "COMMENT".into())
        }
        "refresh" => Some("REFRESH MATERIALIZED VIEW".into()),
        "import" => Some("IMPORT FOREIGN SCHEMA".into()),
        "select" | "with" => is_select_into(statement).then(|| "SELECT INTO".into()),
        "begin" | "start" | "commit" | "end" | "abort" => return Command::Boundary,
        "rollback" if !matches!(second, "to") && !matches!(rest, ["work" | "transaction", "to", ..]) => {
            return Command::Boundary;
        }
        "prepare" if second == "transaction" => return Command::Boundary,
        _ => None,
    };
    match tag {
        Some(tag) if !is_passed_over(&tag) => Command::Ddl(tag),
        _ => Command::Other,
    }
}

fn create(statement: &Statement<'_>, rest: &[&str]) -> Option<String> {
    let modifiers =
        ["or", "replace", "global", "local", "temp", "temporary", "unlogged", "unique", "recursive"];
    let more = ["trusted", "procedural", "constraint", "default"];
    let skipped = rest.iter().take_while(|word| modifiers.contains(word) || more.contains(word)).count();
    let object = object(rest.get(skipped..).unwrap_or_default())?;
    if object == "TABLE" && statement.has_outer_word("as") {
        return Some("CREATE TABLE AS".into());
    }
    Some(format!("CREATE {object}"))
}

/// The kind of object that these words begin with; none where no event trigger fires for it, or where they leave out what
/// may hold a password.
fn object(words: &[&str]) -> Option<String> {
    Some(match words {
        [
            "role" | "user" | "group" | "database" | "tablespace" | "system" | "event" | "subscription"
            | "server",
            ..,
        ] if !matches!(words, ["user", "mapping", ..]) => {
            return None;
        }
        ["user", "mapping", ..] => return None,
        ["procedural", "language", ..] => "LANGUAGE".into(),
        ["foreign", "data", "wrapper", ..] => "FOREIGN DATA WRAPPER".into(),
        ["text", "search", kind, ..] => format!("TEXT SEARCH {}", kind.to_uppercase()),
        ["foreign", "table", ..]
        | ["materialized", "view", ..]
        | ["default", "privileges", ..]
        | ["access", "method", ..]
        | ["operator", "class" | "family", ..]
        | ["large", "object", ..] => {
            words.iter().take(2).map(|word| word.to_uppercase()).collect::<Vec<_>>().join(" ")
        }
        [kind, ..] => kind.to_uppercase(),
        [] => "?".into(),
    })
}

fn is_select_into(statement: &Statement<'_>) -> bool {
    let mut before = "";
    for (_, word) in statement.outer_words() {
        if word == "into" && !matches!(before, "insert" | "merge") {
            return true;
        }
        before = word;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::split::split;
    use super::*;

    #[track_caller]
    fn check(sql: &str, tag: &str) {
        let statements = split(sql, true).unwrap();
        assert_eq!(command(&statements[0]), Command::Ddl(tag.into()), "{sql}");
    }

    #[track_caller]
    fn silent(sql: &str, expected: Command) {
        assert_eq!(command(&split(sql, true).unwrap()[0]), expected, "{sql}");
    }

    #[test]
    fn tags_come_from_the_words() {
        check("CREATE TABLE t(a int default 1)", "CREATE TABLE");
        check("create unlogged table if not exists t (b int generated always as (1) stored)", "CREATE TABLE");
        check("create table t partition of u for values in (1)", "CREATE TABLE");
        check("create temp table t(a) on commit drop as select 1", "CREATE TABLE AS");
        check("create table \"as\".t()", "CREATE TABLE");
        check("create unique index concurrently on t(a)", "CREATE INDEX");
        check("create or replace recursive view v(a) as select 1", "CREATE VIEW");
        check("create materialized view m as select 1", "CREATE MATERIALIZED VIEW");
        check("create constraint trigger x after insert on t execute function f()", "CREATE TRIGGER");
        check("create text search configuration c (parser = p)", "CREATE TEXT SEARCH CONFIGURATION");
        check("create operator family f using btree", "CREATE OPERATOR FAMILY");
        check("create operator = (function = f)", "CREATE OPERATOR");
        check("create foreign table f() server s", "CREATE FOREIGN TABLE");
        check("alter table only public.t add column b int", "ALTER TABLE");
        check("alter materialized view m rename to n", "ALTER MATERIALIZED VIEW");
        check("alter type e add value 'x'", "ALTER TYPE");
        check("drop table if exists a, b cascade", "DROP TABLE");
        check("drop procedural language l", "DROP LANGUAGE");
        check("drop owned by bob", "DROP OWNED");
        check("comment on table t is 'x'", "COMMENT");
        check("refresh materialized view concurrently m", "REFRESH MATERIALIZED VIEW");
        check("select 1 as a into t", "SELECT INTO");
        check("with x as (select 1) select * into t from x", "SELECT INTO");
    }

    #[test]
    fn others_are_silent() {
        for sql in [
            "create role bob",
            "create user mapping for bob server s options (password 'x')",
            "alter system set a = 1",
            "drop database d",
            "create event trigger e on sql_drop execute function f()",
            "grant select on t to bob",
            "grant a to b",
            "reindex table t",
            "comment on role bob is 'x'",
            "select 1",
            "insert into t select 1",
            "with x as (select 1) insert into t select * from x",
            "do $$ begin create table t(); end $$",
            "savepoint s",
            "rollback to s",
            "rollback work to savepoint s",
            "vacuum t",
            "create publication p",
            "alter subscription s enable",
            "prepare p as select 1",
            "alter default privileges grant select on tables to bob",
        ] {
            silent(sql, Command::Other);
        }
        for sql in
            ["begin", "start transaction", "commit", "end", "rollback", "abort", "prepare transaction 'x'"]
        {
            silent(sql, Command::Boundary);
        }
    }
}
