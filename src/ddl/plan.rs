//! What to do with each event of a transaction.

use std::collections::BTreeMap;

use super::event::{Event, Kind, Object};
use super::split::{Statement, split};
use super::tag::{self, Command};

/// What an event asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing to do on the target, and why.
    Skip(&'static str),
    Run(Box<Run>),
    /// It can't be run with certainty: why not, and what the source ran.
    Stop {
        reason: String,
        query: String,
    },
}

/// A statement to run on the target, and what must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    pub sql: String,
    pub settings: BTreeMap<String, String>,
    /// Relations, by quoted name, that must be on the target before and after.
    pub before: Vec<String>,
    pub after: Vec<String>,
    /// The tables that were altered.
    pub tables: Vec<String>,
    /// Rows got values that were computed one by one, for columns that are new.
    pub computes: bool,
    /// Functions that may have computed new values of rows: they must be immutable.
    pub functions: Vec<String>,
    /// By table and column: what rows got that were there before the column.
    pub missing: BTreeMap<(String, String), String>,
}

/// A command with what was told just before it.
struct Done<'e> {
    /// The event at whose place it has to be run.
    at: usize,
    event: &'e Event,
    dropped: Vec<&'e Object>,
    rewritten: Vec<&'e Object>,
}

/// One action for each event of a transaction, in order.
pub fn plan(events: &[Event]) -> Vec<Action> {
    let mut actions = vec![Action::Skip("part of the command that follows"); events.len()];
    let mut from = 0;
    while let Some(first) = events.get(from) {
        let same = |event: &&Event| event.at == first.at && event.query.is_none();
        let count = events.get(from + 1..).unwrap_or_default().iter().take_while(same).count();
        let group = events.get(from..=from + count).unwrap_or_default();
        for (at, action) in plan_message(group) {
            if let Some(slot) = actions.get_mut(from + at) {
                *slot = action;
            }
        }
        from += count + 1;
    }
    actions
}

/// The events of one message of the source's client.
fn plan_message(events: &[Event]) -> Vec<(usize, Action)> {
    let query = events.first().and_then(|event| event.query.clone());
    let stop = |reason: &str| Action::Stop {
        reason: reason.to_owned(),
        query: query.clone().unwrap_or_else(|| "(not in the log)".into()),
    };
    let mut actions = Vec::new();
    let (mut dropped, mut rewritten, mut done) = (Vec::new(), Vec::new(), Vec::new());
    let mut started = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match event.kind {
            Kind::Failed => {
                let reason = format!("the source's trigger failed at a {}: {}", event.tag, event.error);
                actions.push((at, stop(&reason)));
            }
            Kind::Start => started.push(at),
            Kind::Drop => dropped.extend(&event.objects),
            Kind::Rewrite => rewritten.extend(&event.objects),
            Kind::Command => {
                let (dropped, rewritten) = (std::mem::take(&mut dropped), std::mem::take(&mut rewritten));
                let has_start = matches!(event.tag.as_str(), "CREATE TABLE AS" | "SELECT INTO");
                let at = if has_start { started.pop().unwrap_or(at) } else { at };
                let command = Done { at, event, dropped, rewritten };
                if let Some(reason) = command.is_nothing() {
                    actions.push((at, Action::Skip(reason)));
                }
                if event.nested && command.is_nothing().is_none() {
                    actions.push((
                        at,
                        stop("it was run by a function, a procedure or DO, whose text is not known"),
                    ));
                } else if !event.nested && !tag::is_passed_over(&event.tag) {
                    done.push(command);
                }
            }
        }
    }
    if done.iter().all(|command| command.is_nothing().is_some()) {
        return actions;
    }
    let standard = events.first().and_then(|event| event.settings.get("standard_conforming_strings"));
    let statements = query.as_deref().and_then(|query| split(query, standard.is_none_or(|set| set == "on")));
    let matched = match statements.as_deref().map(|statements| match_up(&done, statements)) {
        Some(Ok(matched)) => matched,
        refused => {
            let reason = match refused {
                Some(Err(reason)) => reason,
                _ if query.is_none() => "its text was too long to be told",
                _ => "its text can't be split into statements",
            };
            let real = done.iter().filter(|command| command.is_nothing().is_none());
            actions.extend(real.map(|command| (command.at, stop(reason))));
            return actions;
        }
    };
    for (command, statement) in done.iter().zip(matched) {
        if command.is_nothing().is_some() {
            continue;
        }
        let action = match statement {
            None => Action::Skip("done by the extension"),
            Some(statement) => command.decide(statement).unwrap_or_else(|reason| Action::Stop {
                reason: reason.to_owned(),
                query: statement.text().to_owned(),
            }),
        };
        actions.push((command.at, action));
    }
    actions
}

/// For each command its statement; none for those that an extension's script ran. The tags of one run of statements
/// between ends of transactions must be exactly those of the commands.
fn match_up<'s, 'q>(
    done: &[Done<'_>],
    statements: &'s [Statement<'q>],
) -> Result<Vec<Option<&'s Statement<'q>>>, &'static str> {
    let commands: Vec<_> = statements.iter().map(|statement| (tag::command(statement), statement)).collect();
    let mut found = None;
    for segment in commands.split(|(command, _)| *command == Command::Boundary) {
        if let Some(aligned) = align(done, segment)
            && found.replace(aligned).is_some()
        {
            return Err("the string holds several transactions that it may be of");
        }
    }
    found.ok_or("the commands that were done are not one to one the statements of the string")
}

fn align<'s, 'q>(
    done: &[Done<'_>],
    segment: &[(Command, &'s Statement<'q>)],
) -> Option<Vec<Option<&'s Statement<'q>>>> {
    let mut aligned = Vec::new();
    let mut left = done.iter();
    for (command, statement) in segment {
        let Command::Ddl(tag) = command else { continue };
        let mut next = left.next()?;
        if tag.ends_with(" EXTENSION") {
            while next.event.tag != *tag {
                aligned.push(None);
                next = left.next()?;
            }
        }
        if next.event.tag != *tag {
            return None;
        }
        aligned.push(Some(*statement));
    }
    left.next().is_none().then_some(aligned)
}

/// Objects that are of the source alone.
fn is_foreign(object: &Object) -> bool {
    matches!(object.kind.as_str(), "publication" | "subscription" | "server" | "user mapping")
}

impl Done<'_> {
    /// Why nothing is to be done, where that shows without the text.
    fn is_nothing(&self) -> Option<&'static str> {
        let tag = &self.event.tag;
        let objects: Vec<&Object> = self.event.objects.iter().chain(self.dropped.iter().copied()).collect();
        if tag::is_passed_over(tag) {
            Some("privileges, owners and publications are the target's own")
        } else if objects.is_empty() {
            Some("it changed nothing on the source")
        } else if objects.iter().all(|object| object.is_temporary()) {
            Some("temporary objects are the source's own")
        } else if objects.iter().all(|object| is_foreign(object)) {
            Some("publications and servers are the source's own")
        } else {
            None
        }
    }

    fn decide(&self, statement: &Statement<'_>) -> Result<Action, &'static str> {
        let event = self.event;
        let words: Vec<(usize, &str)> = statement.outer_words().collect();
        let has = |word: &str| words.iter().any(|(_, known)| *known == word);
        let mut run =
            Run { sql: statement.text().to_owned(), settings: event.settings.clone(), ..Run::default() };
        match event.tag.as_str() {
            "SELECT INTO" => {
                return Err("SELECT INTO would copy rows that come by themselves: use CREATE TABLE AS");
            }
            "ALTER TABLE" if has("enable") && (has("always") || has("replica")) => {
                return Err(
                    "the trigger or rule would fire for replicated rows too, and what it writes comes by itself",
                );
            }
            tag if tag.starts_with("DROP ") && has("cascade") => {
                return Err("CASCADE may drop on the target what the source does not have");
            }
            "DROP OWNED" => return Err("what it drops depends on the owners, which are the target's own"),
            "CREATE TABLE AS" => run.sql = without_data(statement),
            // In a transaction there is nothing concurrent.
            "CREATE INDEX" | "DROP INDEX" => {
                run.sql = statement
                    .text_without(|_, token| token.depth == 0 && token.word() == Some("concurrently"));
            }
            "ALTER TABLE" if has("detach") && has("finalize") => {
                return Err("how far the detaching was is not known on the target");
            }
            "ALTER TABLE" if has("detach") => {
                run.sql = statement
                    .text_without(|_, token| token.depth == 0 && token.word() == Some("concurrently"));
            }
            _ => {}
        }
        if event.tag.starts_with("ALTER ") && is_only_of_owner(statement) {
            return Ok(Action::Skip("owners are the target's own"));
        }
        let relations = |objects: &mut dyn Iterator<Item = &Object>| -> Vec<String> {
            let named = objects.filter(|object| object.is_relation() && !object.is_temporary());
            named.filter_map(|object| object.identity.clone()).collect()
        };
        run.after = relations(&mut event.objects.iter());
        if event.tag.starts_with("DROP ") {
            run.before = relations(&mut self.dropped.iter().copied());
        }
        if event.tag == "ALTER TABLE" {
            run.tables.clone_from(&run.after);
            // A rewrite of any reason puts a new column's default into each row, and forgets what it was.
            run.computes = self.rewritten.iter().any(|table| table.reason & 2 != 0 || has("add"));
            run.missing = event
                .missing
                .iter()
                .map(|missing| ((missing.table.clone(), missing.column.clone()), missing.value.clone()))
                .collect();
        }
        if self.rewritten.iter().any(|table| table.reason & 1 != 0 && table.unlogged) {
            return Err("the rows of a table that was unlogged were never sent: copy them");
        }
        let using = words.iter().find(|(_, word)| *word == "using");
        if let Some((using, _)) = using.filter(|_| self.rewritten.iter().any(|table| table.reason & 4 != 0)) {
            run.functions = statement.called_after(*using);
            if depends_on_the_moment(statement, *using) {
                return Err("the new values depend on when or by whom it was run: rows would differ");
            }
        }
        Ok(Action::Run(Box::new(run)))
    }
}

/// The rows come by themselves.
fn without_data(statement: &Statement<'_>) -> String {
    let words: Vec<Option<&str>> = statement.tokens.iter().map(|token| token.word()).collect();
    let tail = match words.as_slice() {
        [.., Some("with"), Some("no"), Some("data")] => 3,
        [.., Some("with"), Some("data")] => 2,
        _ => 0,
    };
    let keep = words.len() - tail;
    // On a line of its own: a comment may stand before it.
    format!("{}\nWITH NO DATA", statement.text_without(|at, _| at >= keep))
}

/// `ALTER … OWNER TO role`, and nothing else. A column or constraint may be called `owner` as well.
fn is_only_of_owner(statement: &Statement<'_>) -> bool {
    let words: Vec<Option<&str>> = statement.tokens.iter().map(|token| token.word()).collect();
    let owner = matches!(words.as_slice(), [.., Some("owner"), Some("to"), _]);
    let list = statement
        .tokens
        .iter()
        .any(|token| token.depth == 0 && token.kind == super::split::TokenKind::Symbol(b','));
    owner && !list && !["rename", "policy"].iter().any(|word| statement.has_outer_word(word))
}

/// Whether something behind a token gives the time or the user of the moment: the keywords that do, and the constants of
/// times that mean now.
fn depends_on_the_moment(statement: &Statement<'_>, after: usize) -> bool {
    const WORDS: [&str; 11] = [
        "current_timestamp",
        "current_date",
        "current_time",
        "localtimestamp",
        "localtime",
        "current_user",
        "session_user",
        "user",
        "current_role",
        "current_catalog",
        "current_schema",
    ];
    statement.tokens.iter().skip(after + 1).any(|token| match token.word() {
        Some(word) => WORDS.contains(&word),
        None => {
            let constant = statement.constant(token).trim_matches('\'').trim().to_ascii_lowercase();
            ["now", "today", "tomorrow", "yesterday"].contains(&constant.as_str())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event in few words: `TAG identity`, `drop identity`, `rewrite reason`, with `~` for nested and `@` for temporary.
    fn event(at: &str, query: Option<&str>, words: &str) -> Event {
        let nested = words.starts_with('~');
        let words = words.trim_start_matches('~');
        let (tag, identity) = words.rsplit_once(' ').unwrap();
        let (event, tag) = match tag {
            "drop" => ("sql_drop", "DROP TABLE"),
            "start" => ("ddl_command_start", "CREATE TABLE AS"),
            "rewrite" => ("table_rewrite", "ALTER TABLE"),
            tag => ("ddl_command_end", tag),
        };
        let objects = match identity {
            "-" => serde_json::json!([]),
            _ if event == "table_rewrite" => {
                serde_json::json!([{"type": "table", "schema": "s", "identity": "s.t", "reason": identity.parse::<u32>().unwrap()}])
            }
            _ => serde_json::json!([{"type": "table", "identity": identity.trim_start_matches('@'),
                "schema": if identity.starts_with('@') { "pg_temp" } else { "s" }}]),
        };
        let mut text =
            serde_json::json!({"event": event, "tag": tag, "at": at, "objects": objects, "nested": nested});
        if let Some(query) = query {
            text["query"] = query.into();
        }
        serde_json::from_value(text).unwrap()
    }

    fn shown(action: &Action) -> String {
        match action {
            Action::Skip(_) => "-".into(),
            Action::Run(run) => run.sql.clone(),
            Action::Stop { reason, .. } => format!("stop: {reason}"),
        }
    }

    /// The actions of the commands of one string.
    #[track_caller]
    fn check(query: &str, events: &[&str], expected: &[&str]) {
        let events: Vec<Event> = events
            .iter()
            .enumerate()
            .map(|(at, words)| event("1", (at == 0).then_some(query), words))
            .collect();
        let actions = plan(&events);
        let commands = events.iter().zip(&actions).filter(|(event, _)| event.kind == Kind::Command);
        let found: Vec<String> = commands.map(|(_, action)| shown(action)).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found == expected || expected.starts_with("stop") && found.contains(expected), "{found}");
        }
    }

    #[test]
    fn statements_are_matched_in_order() {
        check("create table s.t(a int);", &["CREATE TABLE s.t"], &["create table s.t(a int)"]);
        check(
            "begin; create table a(); insert into a values (1); alter table a add b int; commit",
            &["CREATE TABLE s.a", "ALTER TABLE s.a"],
            &["create table a()", "alter table a add b int"],
        );
        check(
            "create table if not exists a(); create temp table b(); drop table c; grant select on a to b; drop table b",
            &[
                "CREATE TABLE -",
                "CREATE TABLE @b",
                "drop s.c",
                "DROP TABLE -",
                "GRANT x",
                "drop @b",
                "DROP TABLE -",
            ],
            &["-", "-", "drop table c", "-", "-"],
        );
        check(
            "create extension hstore; create table k()",
            &["drop s.x", "DROP OPERATOR -", "CREATE EXTENSION hstore", "CREATE TABLE s.k"],
            &["-", "create extension hstore", "create table k()"],
        );
    }

    #[test]
    fn what_is_not_certain_is_a_stop() {
        check("do $$ begin create table t(); end $$", &["~CREATE TABLE s.t"], &["stop: it was run by"]);
        check(
            "create table a(); do $$ begin create table t(); end $$",
            &["CREATE TABLE s.a", "~CREATE TABLE s.t"],
            &["create table a()", "stop: it was run by"],
        );
        let several = "begin; create table a(); commit; begin; create table b(); commit";
        check(several, &["CREATE TABLE s.b"], &["stop: the string holds several"]);
        check("create table a(); create table b()", &["CREATE TABLE s.b"], &["stop: the commands"]);
        check("select f()", &["CREATE TABLE s.b"], &["stop: the commands"]);
        check("alter table t enable always trigger x", &["ALTER TABLE s.t"], &["stop: the trigger or rule"]);
        check("drop table t cascade", &["drop s.t", "DROP TABLE -"], &["stop: CASCADE"]);
        check("create table 'a", &["CREATE TABLE s.b"], &["stop: its text can't"]);
        check("select 1 into t", &["SELECT INTO s.t"], &["stop: SELECT INTO"]);
    }

    #[test]
    fn several_transactions_of_one_string_are_told_apart_by_their_tags() {
        let query = "create table a(); commit; begin; create table b(); drop table a; commit";
        check(
            query,
            &["CREATE TABLE s.b", "drop s.a", "DROP TABLE -"],
            &["create table b()", "drop table a"],
        );
        // The same string twice in one transaction comes with another time.
        let twice: Vec<Event> = ["1", "2"]
            .iter()
            .map(|at| event(at, Some("drop table if exists a; create table a()"), "CREATE TABLE s.a"))
            .collect();
        assert!(plan(&twice).iter().all(|action| matches!(action, Action::Stop { .. })));
    }

    #[test]
    fn rows_come_by_themselves() {
        let check_one = |query: &str, expected: &str| check(query, &["CREATE TABLE AS s.t"], &[expected]);
        check_one("create table t as select 1", "create table t as select 1\nWITH NO DATA");
        check_one(
            "create table t as select 1 -- x\n with data;",
            "create table t as select 1 -- x\nWITH NO DATA",
        );
        check_one("create table t as select 1 with no data", "create table t as select 1\nWITH NO DATA");
    }

    #[test]
    fn a_command_that_writes_rows_is_run_before_them() {
        let query = "create table a(); create table t as select 1";
        let events = [
            event("1", Some(query), "CREATE TABLE s.a"),
            event("1", None, "start -"),
            event("1", None, "CREATE TABLE AS s.t"),
        ];
        let found: Vec<String> = plan(&events).iter().map(shown).collect();
        assert_eq!(found, ["create table a()", "create table t as select 1\nWITH NO DATA", "-"]);
    }

    #[test]
    fn nothing_is_concurrent_and_owners_stay() {
        check("create index concurrently i on t(a)", &["CREATE INDEX s.i"], &["create index  i on t(a)"]);
        check("alter table t owner to bob", &["ALTER TABLE s.t"], &["-"]);
        let rename = "alter table t rename owner to boss";
        check(rename, &["ALTER TABLE s.t"], &[rename]);
        check(
            "alter table t detach partition p concurrently",
            &["ALTER TABLE s.t"],
            &["alter table t detach partition p"],
        );
    }

    #[test]
    fn computed_values_are_noticed() {
        let run = |query: &str, reason: &str| {
            let rewrite = format!("rewrite {reason}");
            let events = [event("1", Some(query), &rewrite), event("1", None, "ALTER TABLE s.t")];
            plan(&events).remove(1)
        };
        let Action::Run(computes) = run("alter table t add a uuid default gen_random_uuid()", "2") else {
            panic!()
        };
        assert!(computes.computes);
        let Action::Run(using) = run("alter table t alter a type int using f(a)", "4") else { panic!() };
        assert!(!using.computes && using.functions == ["f"]);
        assert!(matches!(
            run("alter table t alter a type timestamp using current_timestamp", "4"),
            Action::Stop { .. }
        ));
        for moment in ["coalesce(a, current_timestamp)", "(current_user)", "'Now'::timestamp"] {
            let query = format!("alter table t alter a type timestamp using {moment}");
            assert!(matches!(run(&query, "4"), Action::Stop { .. }), "{query}");
        }
        let both = "alter table t add created timestamptz default now(), alter id type bigint";
        let Action::Run(both) = run(both, "4") else { panic!() };
        assert!(both.computes);
        let Action::Run(plain) = run("alter table t alter a type int", "4") else { panic!() };
        assert!(plain.functions.is_empty());
    }
}
