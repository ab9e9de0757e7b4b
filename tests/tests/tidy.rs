//! What holds of the source tree itself: who may import whom, what the cores do not touch, which versions are not to
//! come back, and that the documentation points at things that exist.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace above").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Files below `folder` with one of these endings, as paths relative to the workspace.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(entry.path());
            } else if kind.is_file() && endings.iter().any(|e| name.ends_with(e)) {
                let path = entry.path();
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Fails with everything that is wrong, not with the first thing.
fn none(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

/// Lines of code with their numbers: no blank lines, no comments, nothing behind the start of the inline tests.
fn code(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    let lines = lines
        .into_iter()
        .enumerate()
        .take(tests.unwrap_or(usize::MAX));
    lines
        .map(|(n, line)| (n + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("//"))
        .collect()
}

fn versions() -> BTreeMap<String, Vec<[u64; 3]>> {
    let lock = read("Cargo.lock");
    let mut found: BTreeMap<String, Vec<[u64; 3]>> = BTreeMap::new();
    let quoted = |line: &str| line.split('"').nth(1).unwrap().to_owned();
    let mut name = String::new();
    for line in lock.lines() {
        if line.starts_with("name = ") {
            name = quoted(line);
        } else if line.starts_with("version = \"") {
            let version = version(&quoted(line));
            found.entry(name.clone()).or_default().push(version);
        }
    }
    found
}

/// The three numbers; what follows them does not matter here.
fn version(text: &str) -> [u64; 3] {
    let mut numbers = text.split(['.', '-', '+']).map(|n| n.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// What `deny.toml` bans: `NAME` altogether, `NAME:<VERSION` below a floor.
fn bans() -> Vec<(String, Option<String>)> {
    read("deny.toml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \""))
        .map(|line| line.split('"').next().unwrap())
        .map(|spec| match spec.split_once(":<") {
            Some((name, floor)) => (name.to_owned(), Some(floor.to_owned())),
            None => (spec.to_owned(), None),
        })
        .collect()
}

#[test]
fn no_banned_package_and_none_below_its_floor_is_locked() {
    let (bans, locked) = (bans(), versions());
    for (name, floor) in [
        ("quinn-proto", "0.11.15"),
        ("yamux", "0.13.10"),
        ("snow", "0.9.5"),
        ("rustls-webpki", "0.103.13"),
        ("bytes", "1.11.1"),
        ("curve25519-dalek", "4.1.3"),
        ("libp2p-quic", "0.13.1"),
        ("libp2p-relay", "0.22.0"),
    ] {
        let ban = (name.to_owned(), Some(floor.to_owned()));
        assert!(bans.contains(&ban), "deny.toml lost the floor of {name}");
        assert!(
            locked.contains_key(name) || name == "libp2p-quic",
            "{name} is gone"
        );
    }
    let mut wrong = Vec::new();
    for (name, floor) in bans {
        let floor = floor.map(|f| version(&f));
        for version in locked.get(&name).into_iter().flatten() {
            if floor.is_none_or(|floor| *version < floor) {
                wrong.push(format!("{name} {version:?}"));
            }
        }
    }
    none("in Cargo.lock although deny.toml bans it", &wrong);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for path in files("", &[".rs"]) {
        let text = read(&path);
        let lines = code(&text).len();
        if lines > 600 {
            wrong.push(format!("{path} has {lines} lines of code"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{path} does not open with //!"));
        }
        for (n, line) in code(&text) {
            if line.starts_with("#[allow(") || line.starts_with("#![allow(") {
                wrong.push(format!(
                    "{path}:{n} silences a lint by allow, not by expect"
                ));
            }
        }
    }
    none("house rules", &wrong);
}

/// Sources of a core without its tests.
fn core(folder: &str) -> Vec<String> {
    let mut sources = files(folder, &[".rs"]);
    sources.retain(|p| !p.contains("/tests/") && !p.ends_with("tests.rs"));
    assert!(sources.len() > 10, "{folder} has moved");
    sources
}

#[test]
fn the_cores_touch_no_clock_socket_task_lock_or_system_randomness() {
    let forbidden = [
        "tokio",
        "libp2p",
        "quinn",
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "UnixStream",
        "Instant::now",
        "SystemTime",
        "OsRng",
        "thread_rng",
        "getrandom",
        "std::thread",
        "std::fs",
        "std::env",
        "std::process",
        "Mutex",
        "RwLock",
        "println!",
        "async fn",
    ];
    let mut wrong = Vec::new();
    for path in core("common/src").into_iter().chain(core("node/proto/src")) {
        for (n, line) in code(&read(&path)) {
            for word in forbidden {
                let allowed = word == "getrandom" && path == "common/src/identity.rs";
                if line.contains(word) && !allowed {
                    wrong.push(format!("{path}:{n} {word}"));
                }
            }
        }
    }
    none("in a core that does no I/O", &wrong);
}

/// Names in the dependency tables of a manifest, with what stands behind them, by table.
fn dependencies(manifest: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut table = String::new();
    for line in read(manifest).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        } else if table.ends_with("dependencies")
            && let Some((name, value)) = line.split_once('=')
        {
            let (name, value) = (name.trim(), value.trim());
            let (name, value) = match name.strip_suffix(".workspace") {
                Some(name) => (name, "workspace"),
                None => (name, value),
            };
            let entries = tables.entry(table.clone()).or_default();
            entries.insert(name.to_owned(), value.to_owned());
        }
    }
    tables
}

const PACKAGES: [(&str, &[&str]); 9] = [
    ("common", &[]),
    ("common/timers", &[]),
    ("common/transport", &["common"]),
    ("node/proto", &["common"]),
    ("bootstrap", &["common", "transport"]),
    ("coordinator", &["common", "transport"]),
    (
        "node",
        &["bootstrap", "common", "coordinator", "proto", "transport"],
    ),
    (
        "tests",
        &[
            "bootstrap",
            "common",
            "coordinator",
            "node",
            "proto",
            "transport",
        ],
    ),
    (
        "tests/fuzz",
        &[
            "bootstrap",
            "common",
            "coordinator",
            "node",
            "proto",
            "tests",
            "transport",
        ],
    ),
];

#[test]
fn the_daemon_goes_by_a_clock_that_goes_on_while_the_machine_sleeps() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files("node/src/daemon", &[".rs"]) {
        let text = read(&path);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        seen += code.matches("clock::now()").count();
        // libp2p's records and the streams of relays are not told of sleeps, and need not be.
        let exempt = path.ends_with("swarm/records.rs") || path.ends_with("relay_io.rs");
        if code.contains(" Instant::now()") && !exempt {
            wrong.push(format!("{path} reads another clock than clock::now()"));
        }
    }
    assert!(seen > 20, "only {seen} readings were found");
    none("clocks", &wrong);
}

#[test]
fn packages_depend_on_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    for (package, allowed) in PACKAGES {
        let tables = dependencies(&format!("{package}/Cargo.toml"));
        for (table, entries) in &tables {
            for (name, value) in entries {
                let own = name.strip_prefix("kanpachi-");
                if own.is_some_and(|own| !allowed.contains(&own)) {
                    wrong.push(format!("{package} [{table}] {name}"));
                }
                if value != "workspace" && !value.contains("workspace = true") {
                    wrong.push(format!(
                        "{package} [{table}] {name} is not declared in the workspace"
                    ));
                }
            }
        }
    }
    let node = &dependencies("node/Cargo.toml")["dependencies"];
    for server in ["kanpachi-bootstrap", "kanpachi-coordinator"] {
        if !node[server].contains("optional = true") {
            wrong.push(format!("node needs {server} without the feature host"));
        }
    }
    let io = [
        "tokio",
        "libp2p",
        "quinn",
        "socket2",
        "nix",
        "rusqlite",
        "tun",
        "rtnetlink",
        "axum",
        "futures-timer",
    ];
    for package in ["common", "node/proto"] {
        let tables = dependencies(&format!("{package}/Cargo.toml"));
        wrong.extend(
            io.iter()
                .filter(|name| tables["dependencies"].contains_key(**name))
                .map(|name| format!("{package} does I/O by {name}")),
        );
    }
    none("dependencies", &wrong);
}

/// cargo only warns of a patch that no version fits any more.
#[test]
fn the_timers_of_libp2p_are_ours() {
    let lock = read("Cargo.lock");
    let packages = lock.split("[[package]]");
    let those: Vec<_> = packages
        .filter(|package| package.contains("name = \"futures-timer\""))
        .collect();
    assert!(
        those.len() == 1 && !those[0].contains("source ="),
        "{those:?}"
    );
}

#[test]
fn all_seven_packages_of_the_mission_are_in_use() {
    let users: Vec<_> = PACKAGES
        .iter()
        .filter_map(|(p, _)| dependencies(&format!("{p}/Cargo.toml")).remove("dependencies"))
        .collect();
    for name in [
        "libp2p",
        "tokio",
        "tun",
        "ed25519-dalek",
        "chacha20poly1305",
        "serde_cbor",
        "rusqlite",
    ] {
        assert!(
            users.iter().any(|u| u.contains_key(name)),
            "{name} is not used"
        );
    }
}

#[test]
fn nothing_names_a_path_of_somebodys_machine() {
    // Written so that this file does not find itself.
    let homes = [
        ["/ho", "me/"],
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["/Us", "ers/"],
        ["C:", "\\"],
    ];
    let endings = [
        ".rs",
        ".md",
        ".toml",
        ".yml",
        ".sql",
        ".sh",
        "Makefile",
        "lab-runner",
        "run",
    ];
    let mut wrong = Vec::new();
    for path in files("", &endings)
        .into_iter()
        .chain(files(".ci", &endings))
    {
        let text = String::from_utf8_lossy(&fs::read(root().join(&path)).unwrap()).into_owned();
        for (n, line) in text.lines().enumerate() {
            if homes.iter().any(|home| line.contains(&home.concat())) {
                wrong.push(format!("{path}:{} {}", n + 1, line.trim()));
            }
        }
    }
    none("absolute paths", &wrong);
}

/// Lines of a page that are no code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(n, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((n + 1, line))
    })
}

/// The anchors that headings get: lower case, blanks to hyphens, everything but letters, digits, `-` and `_` gone.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| {
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let pages = files("", &[".md"]);
    assert!(pages.iter().any(|p| p == "docs/protocol.md"));
    let mut wrong = Vec::new();
    for page in &pages {
        let text = read(page);
        for (n, line) in prose(&text) {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                if target.starts_with("https://") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() {
                    root().join(page)
                } else {
                    root().join(page).parent().unwrap().join(file)
                };
                let Ok(found) = fs::read(&path).or_else(|e| {
                    // A folder is a place, too.
                    if path.is_dir() {
                        Ok(Vec::new())
                    } else {
                        Err(e)
                    }
                }) else {
                    wrong.push(format!("{page}:{n} {target}"));
                    continue;
                };
                let found = String::from_utf8_lossy(&found);
                if !anchor.is_empty() && !anchors(&found).contains(anchor) {
                    wrong.push(format!("{page}:{n} no heading for {target}"));
                }
            }
        }
    }
    none("links", &wrong);
}

/// Files that the pages name in passing, as `folder/file.rs`, exist.
#[test]
fn every_file_that_the_documentation_names_exists() {
    let tops = [
        "bootstrap/",
        "common/",
        "coordinator/",
        "docs/",
        "node/",
        "tests/",
    ];
    let mut wrong = Vec::new();
    for page in files("", &[".md"]) {
        let text = read(&page);
        for (n, line) in prose(&text) {
            for name in line.split('`').skip(1).step_by(2) {
                // Braces stand for several, capitals for something to fill in.
                let plain = !name.contains(|c: char| "{}*… ".contains(c) || c.is_uppercase());
                let named = tops.iter().any(|top| name.starts_with(top));
                if plain && named && !root().join(name).exists() {
                    wrong.push(format!("{page}:{n} {name}"));
                }
            }
        }
    }
    none("files that are not there", &wrong);
}

/// The words of a macro call that are code: outside of string literals, or inside of braces in them. The call begins
/// behind its opening parenthesis.
fn logged(call: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut braces, mut depth) = (false, 0, 1);
    for c in call.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            '{' if quoted => braces += 1,
            '}' if quoted && braces > 0 => braces -= 1,
            _ => {}
        }
        let counts = (!quoted || braces > 0) && (c.is_alphanumeric() || c == '_');
        if counts {
            word.push(c);
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if depth == 0 {
            break;
        }
    }
    words
}

#[test]
fn no_log_above_debug_has_an_address_or_a_secret() {
    let forbidden = [
        "addr",
        "addrs",
        "address",
        "addresses",
        "candidate",
        "endpoint",
        "from",
        "invite",
        "password",
        "phrase",
        "remote",
        "secret",
        "seed",
        "trouble",
        "tunnel_secret",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in files("", &[".rs"]) {
        if path.contains("tests/") {
            continue;
        }
        let text = read(&path);
        for level in ["info!(", "warn!(", "error!("] {
            for (at, _) in text.match_indices(&format!("tracing::{level}")) {
                let rest = text.get(at..).unwrap_or_default();
                let call = rest.split_once('(').map_or("", |(_, call)| call);
                seen += 1;
                for word in logged(call) {
                    if forbidden.contains(&word.as_str()) {
                        let line = text.get(..at).unwrap_or_default().lines().count();
                        wrong.push(format!("{path}:{line} logs `{word}`"));
                    }
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} calls were found");
    none("logs above debug", &wrong);
}
