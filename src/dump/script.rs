//! What pg_restore writes, made fit for a connection that is not psql's, and for servers that don't know all of its settings.

use std::collections::BTreeSet;

/// Takes out psql's `\restrict` and `\unrestrict`, which newer minor versions put around a script, and of the settings at its head those
/// that the server does not know. What follows the head is left as it is, whatever it looks like.
pub(super) fn clean(script: &str, known_settings: &BTreeSet<String>) -> String {
    let mut kept = String::with_capacity(script.len());
    let mut rest = script;
    let mut restricted_by = None;
    while let Some((line, after)) = rest.split_once('\n') {
        if let Some(key) = line.strip_prefix("\\restrict ") {
            restricted_by = Some(key);
        } else if restricted_by.is_some() && line.strip_prefix("\\unrestrict ") == restricted_by {
            // Nothing is between the two.
        } else if let Some(setting) = setting(line) {
            if known_settings.contains(setting) {
                kept.push_str(line);
                kept.push('\n');
            }
        } else if line.starts_with("SELECT pg_catalog.set_config(") {
            kept.push_str(line);
            kept.push('\n');
        } else if !line.is_empty() && !line.starts_with("--") {
            break;
        }
        rest = after;
    }
    let closing = restricted_by.map(|key| format!("\n\\unrestrict {key}\n"));
    let body = match closing.and_then(|closing| rest.rfind(&closing)) {
        Some(end) => rest.get(..end).unwrap_or(rest),
        None => rest,
    };
    kept.push_str(body);
    kept
}

/// The name of the setting that a line of the form `SET name = value;` sets.
fn setting(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("SET ")?.split_once(" = ")?;
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_plain && line.ends_with(';')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(script: &str, expected: &str) {
        let known = ["a", "default_tablespace"].map(str::to_owned).into();
        assert_eq!(clean(script, &known), expected);
    }

    #[test]
    fn the_head_alone_is_changed() {
        check(
            "--\n-- PostgreSQL database dump\n--\n\n\\restrict Key1\n\n-- by\n\nSET a = 1;\nSET unknown = 0;\n\
             SELECT pg_catalog.set_config('search_path', '', false);\n\nSET default_tablespace = 'x y';\n\n\
             --\n-- Name: f; Type: FUNCTION\n--\n\nCREATE FUNCTION f() AS $$\nSET unknown = 0;\n\\restrict Key1\n\
             \\unrestrict Key2\n$$;\n\n\n--\n-- complete\n--\n\n\\unrestrict Key1\n\n",
            "SET a = 1;\nSELECT pg_catalog.set_config('search_path', '', false);\nSET default_tablespace = 'x y';\n\
             CREATE FUNCTION f() AS $$\nSET unknown = 0;\n\\restrict Key1\n\\unrestrict Key2\n$$;\n\n\n--\n-- complete\n--\n",
        );
    }

    #[test]
    fn scripts_of_older_versions_have_no_such_lines() {
        check("--\n\nSET a = 'b';\n\nCREATE TABLE t ();\n\n", "SET a = 'b';\nCREATE TABLE t ();\n\n");
        check("", "");
        check("\\restrict k\n\nSET a = 1;\n\n--\n-- complete\n--\n\n\\unrestrict k\n\n", "SET a = 1;\n");
        check("\\restrict k\nSET SESSION AUTHORIZATION x;\n\\unrestrict k\n", "SET SESSION AUTHORIZATION x;");
    }
}
