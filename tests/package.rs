//! Completions, manual pages, and the Debian package.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::{Running, seconds};

fn program(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    said(Command::new(program.as_ref()).args(arguments))
}

#[track_caller]
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stderr}");
    String::from_utf8(stdout).unwrap()
}

fn is_there(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name} >/dev/null")]).status().unwrap();
    if !found.success() {
        eprintln!("left out: there is no {name}");
    }
    found.success()
}

fn pgsluice(arguments: &[&str]) -> String {
    program(env!("CARGO_BIN_EXE_pgsluice"), arguments)
}

/// All commands that --help lists, as `pgsluice-archive-list`.
fn commands(above: &[&str]) -> Vec<String> {
    let help = pgsluice(&[above, &["-h"]].concat());
    let mut names = vec![["pgsluice"].iter().chain(above).copied().collect::<Vec<_>>().join("-")];
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return names };
    let entries = list.lines().take_while(|line| !line.is_empty());
    let entry = |line: &str| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    for line in entries.filter_map(entry) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            names.extend(commands(&[above, &[name]].concat()));
        }
    }
    names
}

#[test]
fn every_command_has_a_manual_page_without_a_warning() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("man1");
    pgsluice(&["man", path.to_str().unwrap()]);
    let commands = commands(&[]);
    assert!(commands.len() > 25, "{commands:?}");
    let is_read = is_there("groff");
    for name in &commands {
        let page = path.join(format!("{name}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains("Example") || name == "pgsluice-sentinel-set", "{name} shows no example");
        if is_read {
            // As `man` reads it: in UTF-8.
            let mut groff = Command::new("groff");
            groff.args(["-Kutf8", "-Tutf8", "-man", "-ww"]).arg(&page);
            let warnings = groff.output().unwrap().stderr;
            assert!(warnings.is_empty(), "{name}: {}", String::from_utf8_lossy(&warnings));
        }
    }
}

#[test]
fn shells_read_the_completions() {
    let folder = TempDir::new().unwrap();
    let script = |shell: &str| {
        let path = folder.path().join(shell);
        std::fs::write(&path, pgsluice(&["completions", shell])).unwrap();
        path
    };
    for shell in ["bash", "zsh", "fish"] {
        let path = script(shell);
        if is_there(shell) {
            program(shell, &["-n", path.to_str().unwrap()]);
        }
    }
    let complete = format!(
        "source {}; COMP_WORDS=(pgsluice cut); COMP_CWORD=1; _pgsluice pgsluice cut pgsluice; echo \"${{COMPREPLY[*]}}\"",
        script("bash").display()
    );
    assert_eq!(program("bash", &["-c", &complete]).trim(), "cutover");
    assert!(!pgsluice(&["completions", "bash"]).contains("postgresql://"));
}

/// The package, built once for each test that looks at it.
struct Package {
    folder: TempDir,
    path: PathBuf,
}

impl Package {
    fn build() -> Option<Package> {
        if !is_there("dpkg-deb") || !is_there("dpkg-shlibdeps") || !is_there("strip") {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/package"));
        command.arg(folder.path()).env("PGSLUICE_BIN", env!("CARGO_BIN_EXE_pgsluice"));
        let path = Running::spawn(command).wait(seconds(300)).done().stdout.trim().into();
        Some(Package { folder, path })
    }
}

#[test]
fn the_package_has_what_it_should_and_is_installed_and_removed() {
    let Some(package) = Package::build() else { return };
    let path = package.path.to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(path.contains(&format!("pgsluice_{version}_")), "{path}");
    let contents = program("dpkg-deb", &["-c", path]);
    for line in [
        "-rwxr-xr-x root/root usr/bin/pgsluice",
        "-rw-r--r-- root/root usr/share/man/man1/pgsluice-follow.1.gz",
        "-rw-r--r-- root/root usr/share/bash-completion/completions/pgsluice",
        "-rw-r--r-- root/root usr/share/zsh/vendor-completions/_pgsluice",
        "-rw-r--r-- root/root usr/share/fish/vendor_completions.d/pgsluice.fish",
        "-rw-r--r-- root/root usr/share/doc/pgsluice/copyright",
        "-rw-r--r-- root/root usr/share/doc/pgsluice/examples/shop.toml",
        "-rw-r--r-- root/root usr/lib/systemd/system/pgsluice@.service",
        "drwxr-x--- root/root etc/pgsluice/",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let found = contents.lines().any(|entry| {
            let entry: Vec<&str> = entry.split_whitespace().collect();
            entry[..2] == words[..2] && entry[5] == format!("./{}", words[2])
        });
        assert!(found, "{line}\n{contents}");
    }
    let depends = program("dpkg-deb", &["-f", path, "Depends"]);
    for library in ["libc6 (>= ", "libstdc++6"] {
        assert!(depends.contains(library), "{depends}");
    }
    // A root of its own, where no maintainer's script reaches this machine.
    let root = package.folder.path().join("root");
    std::fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    std::fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", root.display()));
        command.args([
            "--force-script-chrootless",
            "--force-not-root",
            "--force-depends",
            "--force-bad-path",
        ]);
        said(command.args(arguments))
    };
    dpkg(&["-i", path]);
    assert!(dpkg(&["-s", "pgsluice"]).contains("install ok installed"));
    let installed = root.join("usr/bin/pgsluice");
    assert_eq!(program(&installed, &["--version"]).trim(), format!("pgsluice {version}"));
    dpkg(&["-r", "pgsluice"]);
    assert!(!installed.exists());
}

#[test]
fn systemd_takes_the_unit_and_finds_it_shut_in() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let unit = include_str!("../tools/package.d/pgsluice@.service");
    let unit = unit.replace("/usr/bin/pgsluice", env!("CARGO_BIN_EXE_pgsluice"));
    let path = folder.path().join("pgsluice@shop.service");
    std::fs::write(&path, unit).unwrap();
    let path = path.to_str().unwrap();
    let mut verify = Command::new("systemd-analyze");
    let complaints = verify.args(["verify", "--man=no", path]).output().unwrap();
    let complaints = String::from_utf8_lossy(&complaints.stderr).into_owned();
    assert!(complaints.is_empty(), "{complaints}");
    // 10 is a service that may do everything; 2.0 lets it have the network and its own files.
    said(Command::new("systemd-analyze").args([
        "security",
        "--offline=yes",
        "--threshold=20",
        "--no-pager",
        path,
    ]));
}

#[test]
fn the_packages_example_is_a_configuration() {
    let folder = TempDir::new().unwrap();
    let example = include_str!("../tools/package.d/example.toml");
    // What is commented out too, but for the words.
    let uncommented: String = example
        .lines()
        .map(|line| {
            let key = line
                .strip_prefix("# ")
                .filter(|rest| rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')));
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    assert!(uncommented.contains("\ndurable"), "{uncommented}");
    for text in [example, &uncommented] {
        let path = folder.path().join("shop.toml");
        std::fs::write(&path, text).unwrap();
        pgsluice(&["completions", "bash", "--config", path.to_str().unwrap()]);
    }
}
