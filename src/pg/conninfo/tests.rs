use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::model::Remedy;

fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Conninfo, Fault> {
    let variables = environment(variables);
    Conninfo::parse_with(text, &|name| variables.get(name).cloned())
}

fn tcp(name: &str) -> Endpoint {
    Endpoint::Tcp { name: name.into(), address: None }
}

/// The password of each host, the user, the database and the hosts as they display.
fn summary(conninfo: &Conninfo) -> String {
    let hosts: Vec<String> = conninfo
        .hosts
        .iter()
        .map(|host| match &host.password {
            Some(password) => format!("{host}#{}", password.0),
            None => host.to_string(),
        })
        .collect();
    format!("{} {} {}", conninfo.user, conninfo.database, hosts.join(" "))
}

#[test]
fn strings_mean_what_libpq_takes_them_for() {
    for (text, expected) in [
        ("postgresql://me@h/d", "me d h:5432"),
        ("postgres://me@h:99/d", "me d h:99"),
        ("postgres://me:p%40ss%3A%2F@h:99/d%20b", "me d b h:99#p@ss:/"),
        ("postgres://me:p?q@h/d?connect_timeout=3", "me d h:5432#p?q"),
        ("postgres://me@h", "me me h:5432"),
        ("postgres://me@h?dbname=other", "me other h:5432"),
        ("postgres://h/?user=me&password=a%26b", "me me h:5432#a&b"),
        ("postgres://me@a:1,b,c:3/d", "me d a:1 b:5432 c:3"),
        ("postgres://me@a,b/d?port=7", "me d a:7 b:7"),
        ("postgres://me@[::1]:7/d", "me d [::1]:7"),
        ("postgres://me@[2001:db8::1],[::1]:8/d", "me d [2001:db8::1]:5432 [::1]:8"),
        ("postgres://me@%2Frun%2Fpg:6/d", "me d %2Frun%2Fpg:6"),
        ("postgres://me@/d?host=/run/pg", "me d %2Frun%2Fpg:5432"),
        ("postgres:///d?host=h1,h2&port=1,2&user=me", "me d h1:1 h2:2"),
        ("host=h user=me dbname=d", "me d h:5432"),
        (" host = h  user=me\tdbname = 'a b' ", "me a b h:5432"),
        (r"host=h user=me password='it\'s \\ here'", r"me me h:5432#it's \ here"),
        (r"host=h user=me password=a\ b\'c", "me me h:5432#a b'c"),
        ("host=h user=me password=''", "me me h:5432"),
        ("host=/tmp port=12 user=me", "me me %2Ftmp:12"),
        ("host=a,b port=1,2 user=me", "me me a:1 b:2"),
        ("host=a user=me user=you", "you you a:5432"),
        ("host=h user=me krbsrvname=x client_encoding=auto sslcompression=0", "me me h:5432"),
    ] {
        assert_eq!(summary(&parse(text, &[]).unwrap()), expected, "{text}");
    }
}

#[test]
fn wrong_strings_are_refused_without_repeating_secrets() {
    for (text, expected) in [
        ("postgres://me:SECRET%@h/d", "invalid percent-encoding in password"),
        ("postgres://me:SECRET%0@h/d", "invalid percent-encoding in password"),
        ("postgres://me:SECRET%00@h/d", "invalid percent-encoding in password"),
        ("postgres://me:SECRET%zz@h/d", "invalid percent-encoding in password"),
        ("postgres://me:SECRET@[::1/d", "closing ']'"),
        ("postgres://me:SECRET@[::1]x/d", "after the ']'"),
        ("postgres://me:SECRET@h:port/d", "invalid port number"),
        ("postgres://me:SECRET@h:0/d", "invalid port number"),
        ("postgres://me:SECRET@h:70000/d", "invalid port number: 70000"),
        ("postgres://me:SECRET", "invalid port number"),
        ("postgres://me:SECRET@h/d?colour=red", "\"colour\""),
        ("postgres://me:SECRET@h/d?colour", "has no '='"),
        ("mysql://me:SECRET@h/d", "starts with postgresql://"),
        ("password=one SECRET", "after the value of \"password\""),
        ("SECRET", "after the first word"),
        ("password='SECRET", "\"password\" is not closed"),
        ("host=h passwrod=SECRET", "\"passwrod\""),
        ("host=h replication=database", "\"replication\""),
        ("host=h sslmode=verify", "invalid sslmode value: \"verify\""),
        ("host=h sslcrl=/x", "sslcrl is not supported"),
        ("host=h gssencmode=require", "gssencmode"),
        ("host=h sslmode=require sslrootcert=system", "verify-full"),
        ("host=h sslmode=prefer sslnegotiation=direct", "sslnegotiation"),
        ("host=h connect_timeout=soon", "connect_timeout"),
        ("host=h channel_binding=maybe", "channel_binding"),
        ("host=h require_auth=md5,!password", "mix"),
        ("host=h require_auth=kerberos", "kerberos"),
        ("host=a,b port=1,2,3", "3 port numbers do not match 2 hosts"),
        ("host=a,b hostaddr=127.0.0.1", "do not match"),
        ("hostaddr=localhost", "not an IP address"),
        ("host=@abstract", "abstract"),
        ("host=h sslcert=/x", "no private key"),
    ] {
        let fault = parse(text, &[]).unwrap_err();
        let shown = format!("{} {:?} {fault:?}", fault.message, fault.hint);
        assert_eq!(fault.remedy, Remedy::Usage, "{text}");
        assert!(shown.contains(expected), "{text}: {shown}");
        assert!(!shown.contains("SECRET"), "{text}: {shown}");
    }
}

#[test]
fn the_environment_fills_what_the_string_leaves_open() {
    let variables = [
        ("PGHOST", "envhost"),
        ("PGPORT", "7"),
        ("PGUSER", "envuser"),
        ("PGPASSWORD", "envpass"),
        ("PGDATABASE", "envdb"),
        ("PGSSLMODE", "require"),
        ("PGAPPNAME", "envapp"),
        ("PGOPTIONS", "-c geqo=off"),
        ("PGCONNECT_TIMEOUT", "4"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "primary"),
    ];
    let conninfo = parse("", &variables).unwrap();
    assert_eq!(summary(&conninfo), "envuser envdb envhost:7#envpass");
    assert_eq!(conninfo.tls.mode, Some(SslMode::Require));
    assert_eq!(conninfo.application_name.as_deref(), Some("envapp"));
    assert_eq!(conninfo.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(conninfo.connect_timeout, Some(Duration::from_secs(4)));
    assert_eq!(conninfo.channel_binding, ChannelBinding::Require);
    assert_eq!(conninfo.target_session, TargetSession::Primary);
    let conninfo = parse("postgres://me:mine@h:1/d?sslmode=disable", &variables).unwrap();
    assert_eq!(summary(&conninfo), "me d h:1#mine");
    assert_eq!(conninfo.tls.mode, Some(SslMode::Disable));
    // Given but empty: the default, not the environment.
    assert_eq!(
        summary(&parse("host=h port='' user=me dbname=d password=x", &variables).unwrap()),
        "me d h:5432#x"
    );
}

#[test]
fn without_a_user_the_system_tells_one() {
    let conninfo = parse("host=h", &[]).unwrap();
    assert!(!conninfo.user.is_empty());
    assert_eq!(conninfo.user, conninfo.database);
}

#[test]
fn only_what_stays_on_this_machine_goes_unchecked_by_default() {
    for (text, expected) in [
        ("host=db.example.com", SslMode::VerifyFull),
        ("host=10.0.0.1", SslMode::VerifyFull),
        ("host=localhost", SslMode::Prefer),
        ("host=127.0.0.5", SslMode::Prefer),
        ("host=::1", SslMode::Prefer),
        ("host=/tmp", SslMode::Disable),
        ("host=/tmp sslmode=require", SslMode::Disable),
        ("host=db hostaddr=127.0.0.1", SslMode::Prefer),
        ("host=localhost hostaddr=10.1.1.1", SslMode::VerifyFull),
        ("host=localhost.example.com", SslMode::VerifyFull),
        ("host=db.example.com sslmode=disable", SslMode::Disable),
        ("host=db.example.com sslmode=prefer", SslMode::Prefer),
        ("host=localhost sslrootcert=system", SslMode::VerifyFull),
        ("postgres://me@db/d?ssl=true", SslMode::Require),
    ] {
        let conninfo = parse(text, &[("USER", "me")]).unwrap();
        assert_eq!(conninfo.sslmode_for(&conninfo.hosts[0]), expected, "{text}");
    }
    let mixed = parse("host=localhost,db", &[]).unwrap();
    let modes: Vec<_> = mixed.hosts.iter().map(|host| mixed.sslmode_for(host)).collect();
    assert_eq!(modes, [SslMode::Prefer, SslMode::VerifyFull]);
}

#[test]
fn passwords_never_show() {
    let conninfo = parse("postgres://me:SECRET@h1,h2:3/d?sslmode=require", &[]).unwrap();
    assert_eq!(conninfo.display(), "postgresql://me@h1:5432,h2:3/d?sslmode=require");
    let shown = format!("{conninfo} {conninfo:?} {conninfo:#?}");
    assert!(!shown.contains("SECRET"), "{shown}");
    assert_eq!(conninfo.hosts[0].password.as_ref().unwrap().0, "SECRET");
}

#[test]
fn displayed_uris_name_the_same_server() {
    for text in
        ["postgres://m%20e@%2Frun%2Fpg:6/d%2Fb", "postgres://me@[::1]:7/d", "host=a,b port=1,2 user=me"]
    {
        let conninfo = parse(text, &[]).unwrap();
        assert_eq!(summary(&parse(&conninfo.display(), &[]).unwrap()), summary(&conninfo), "{text}");
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_password_file_is_searched_as_libpq_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass");
    let lines = "# a comment\n\
                 h:5432:d:me:exact\n\
                 *:*:other:me:wild\n\
                 [::1]:5432:d:me:never\n\
                 \\:\\:1:5432:d:me:six\n\
                 h:5432:*:you:with\\:colon and \\\\\n\
                 /run/pg:*:*:*:socket\n\
                 \\*:5432:d:star:no\n\
                 short:5432\n";
    write(&file, lines, 0o600);
    let file = file.to_str().unwrap();
    for (text, expected) in [
        ("host=h user=me dbname=d", "me d h:5432#exact"),
        ("host=h user=me dbname=other", "me other h:5432#wild"),
        ("host=h port=1 user=me dbname=d", "me d h:1"),
        ("host=::1 user=me dbname=d", "me d [::1]:5432#six"),
        ("host=h user=you dbname=x", r"you x h:5432#with:colon and \"),
        ("host=/run/pg user=z dbname=x", "z x %2Frun%2Fpg:5432#socket"),
        ("host=anything user=star dbname=d", "star d anything:5432"),
        ("host=h,i user=me dbname=d", "me d h:5432#exact i:5432"),
        ("host=h user=me dbname=d password=given", "me d h:5432#given"),
    ] {
        assert_eq!(summary(&parse(text, &[("PGPASSFILE", file)]).unwrap()), expected, "{text}");
        assert_eq!(summary(&parse(&format!("{text} passfile={file}"), &[]).unwrap()), expected, "{text}");
    }
}

#[test]
fn a_password_file_that_others_read_is_ignored() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    let variables = [("HOME", home.path().to_str().unwrap())];
    write(&file, "*:*:*:*:word\n", 0o600);
    assert_eq!(summary(&parse("host=h user=me", &variables).unwrap()), "me me h:5432#word");
    for mode in [0o640, 0o604, 0o644] {
        write(&file, "*:*:*:*:word\n", mode);
        assert_eq!(summary(&parse("host=h user=me", &variables).unwrap()), "me me h:5432", "{mode:o}");
    }
}

#[test]
fn services_fill_in_before_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services");
    let text = "# comment\n[first]\nhost=wrong\n\n[mine]\nhost=shost\n port = 8 \n# more\nuser=suser\nsslmode=require\n\
                [mine]\nhost=second\n[nested]\nservice=mine\n[odd]\nno pair\n[unknown]\ncolour=red\n";
    write(&file, text, 0o644);
    let file = file.to_str().unwrap();
    let variables = [("PGSERVICEFILE", file), ("PGUSER", "envuser"), ("PGDATABASE", "envdb")];
    assert_eq!(summary(&parse("service=mine", &variables).unwrap()), "suser envdb shost:8");
    assert_eq!(summary(&parse("service=mine host=h", &variables).unwrap()), "suser envdb h:8");
    assert_eq!(summary(&parse("postgres://?service=mine", &variables).unwrap()), "suser envdb shost:8");
    let by_variable = [("PGSERVICEFILE", file), ("PGSERVICE", "mine")];
    assert_eq!(summary(&parse("dbname=d", &by_variable).unwrap()), "suser d shost:8");
    for (service, expected) in [
        ("missing", "not defined"),
        ("nested", "another service"),
        ("odd", "line 16"),
        ("unknown", "\"colour\""),
    ] {
        let fault = parse(&format!("service={service}"), &variables).unwrap_err();
        assert!(fault.message.contains(expected), "{service}: {fault}");
    }
}

#[test]
fn files_under_home_are_defaults() {
    let home = tempfile::tempdir().unwrap();
    let variables = [("HOME", home.path().to_str().unwrap())];
    let conninfo = parse("host=h", &variables).unwrap();
    assert_eq!((conninfo.tls.roots, conninfo.tls.client), (None, None));
    let folder = home.path().join(".postgresql");
    std::fs::create_dir(&folder).unwrap();
    for name in ["root.crt", "postgresql.crt", "postgresql.key"] {
        write(&folder.join(name), "", 0o600);
    }
    let conninfo = parse("host=h", &variables).unwrap();
    assert_eq!(conninfo.tls.roots, Some(RootCertificates::File(folder.join("root.crt"))));
    assert_eq!(conninfo.tls.client, Some((folder.join("postgresql.crt"), folder.join("postgresql.key"))));
}

#[test]
fn timers_and_methods() {
    let conninfo = parse("host=h", &[]).unwrap();
    assert_eq!(conninfo.connect_timeout, Some(Duration::from_secs(15)));
    assert_eq!(conninfo.keepalive.unwrap().idle, Duration::from_secs(60));
    assert_eq!(conninfo.require_auth, None);
    let text = "host=h connect_timeout=0 keepalives_idle=5 keepalives_count=2 tcp_user_timeout=900 require_auth=!md5,!none";
    let conninfo = parse(text, &[]).unwrap();
    assert_eq!(conninfo.connect_timeout, None);
    let expected = Keepalive { idle: Duration::from_secs(5), interval: Duration::from_secs(10), count: 2 };
    assert_eq!(conninfo.keepalive, Some(expected));
    assert_eq!(conninfo.tcp_user_timeout_milliseconds, 900);
    assert_eq!(conninfo.require_auth, Some(vec![AuthMethod::Password, AuthMethod::ScramSha256]));
    assert_eq!(parse("host=h keepalives=0", &[]).unwrap().keepalive, None);
    assert_eq!(
        parse("host=h hostaddr=10.0.0.1", &[]).unwrap().hosts[0].endpoint,
        Endpoint::Tcp { name: "h".into(), address: Some("10.0.0.1".parse().unwrap()) }
    );
    assert_eq!(parse("host=h", &[]).unwrap().hosts[0].endpoint, tcp("h"));
}
