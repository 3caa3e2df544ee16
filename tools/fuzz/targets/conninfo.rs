//! A connection string: read or refused; a password in it is neither shown nor part of an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_fuzz::pg::Conninfo;

/// Stands where the text has `%PW`, so that it comes whole into the place of a password.
const PASSWORD: &str = "zXqJ7vK2";

fuzz_target!(|text: &str| {
    let text = text.replace("%PW", PASSWORD);
    let environment = |name: &str| (name == "PGUSER").then(|| "somebody".to_owned());
    // A service is read from a file, which is no matter of the text.
    if text.contains("service") || text.contains("passfile") {
        return;
    }
    let shown = match Conninfo::parse_with(&text, &environment) {
        Ok(conninfo) => {
            let uri = conninfo.display();
            // What is shown is a URI of the same server.
            let again = Conninfo::parse_with(&uri, &environment).expect("what is shown can be read");
            assert_eq!(again.display(), uri);
            format!("{conninfo:?} {uri}")
        }
        Err(fault) => format!("{fault:?}"),
    };
    let is_password = ["password=", "host=h password=", "postgresql://u:", "postgresql:///?password="]
        .iter()
        .any(|before| text.strip_prefix(before).is_some_and(|rest| rest.starts_with(PASSWORD)));
    let once = text.matches(PASSWORD).count() == 1;
    assert!(!(is_password && once && shown.contains(PASSWORD)), "a password is shown: {shown}");
});
