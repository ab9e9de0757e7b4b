//! Called `hamachi`, the program answers as Hamachi does.

use std::{os::unix::process::CommandExt as _, path::Path};

use crate::{
    program::{Run, run_as, run_with},
    small::Daemon,
};

/// One command line, its standard input, what the daemon was asked, and the reply on standard output.
type Case = (
    &'static [&'static str],
    &'static str,
    Option<&'static str>,
    &'static str,
);

const CASES: &[Case] = &[
    (
        &["join", "games", "geheim"],
        "",
        Some("join-network games geheim"),
        "Joining games .. ok\n",
    ),
    (
        &["do-join", "games", "-"],
        "geheim\n",
        Some("join-network games geheim"),
        "Joining games .. ok\n",
    ),
    (
        &["join", "guarded", "geheim"],
        "",
        Some("join-network guarded geheim"),
        "Joining guarded .. ok, request sent\n",
    ),
    (
        &["join", "garden", "geheim"],
        "",
        Some("join-network garden geheim"),
        "Joining garden .. failed, invalid password\n",
    ),
    (
        &["join", "garden"],
        "",
        None,
        "Joining garden .. failed, invalid password\n",
    ),
    (
        &["join", "garden", ""],
        "",
        None,
        "Joining garden .. failed, invalid password\n",
    ),
    (
        &["join", "full", "geheim"],
        "",
        Some("join-network full geheim"),
        "Joining full .. failed, the network is full\n",
    ),
    (
        &["join", "locked", "geheim"],
        "",
        Some("join-network locked geheim"),
        "Joining locked .. failed, network is locked\n",
    ),
    (
        &["join", "hall", "geheim"],
        "",
        Some("join-network hall geheim"),
        "Joining hall .. failed, you are already a member\n",
    ),
    (
        &["join", "lan", "geheim"],
        "",
        Some("join-network lan geheim"),
        "Joining lan .. failed, you are an owner\n",
    ),
    (
        &["create", "games", "geheim"],
        "",
        Some("create games geheim"),
        "Creating games .. ok\n",
    ),
    (
        &["create", "games"],
        "",
        Some("create games -"),
        "Creating games .. ok\n",
    ),
    (
        &["create", "taken", "geheim"],
        "",
        Some("create taken geheim"),
        "Creating taken .. failed, network name is already taken\n",
    ),
    (
        &["create", "Bug Hunters", "geheim"],
        "",
        None,
        "Creating Bug Hunters .. failed, a name is made of letters, digits and hyphens, not ' '\n",
    ),
    (
        &["delete", "lan"],
        "",
        Some(r#"change {"change":"delete","network":"lan"}"#),
        "Deleting lan .. ok\n",
    ),
    (
        &["delete", "garden"],
        "",
        Some(r#"change {"change":"delete","network":"garden"}"#),
        "Deleting garden .. failed, network not found\n",
    ),
    (
        &["leave", "lan"],
        "",
        Some(r#"change {"change":"leave","network":"lan","heir":null}"#),
        "Leaving lan .. ok\n",
    ),
    (
        &["leave", "mine"],
        "",
        Some(r#"change {"change":"leave","network":"mine","heir":null}"#),
        "Leaving mine .. failed, you are an owner\n",
    ),
    (
        &["set-pass", "lan", "neu"],
        "",
        Some(r#"change {"change":"set-password","network":"lan","password":"neu"}"#),
        "Setting password of lan .. ok\n",
    ),
    (
        &["set-pass", "lan", ""],
        "",
        Some(r#"change {"change":"set-password","network":"lan","password":null}"#),
        "Setting password of lan .. ok\n",
    ),
    (
        &["set-access", "lan", "lock", "manual"],
        "",
        Some(r#"change {"change":"set-access","network":"lan","locked":true,"approval":true}"#),
        "Setting access to lan .. ok\n",
    ),
    (
        &["set-access", "lan", "unlock"],
        "",
        Some(r#"change {"change":"set-access","network":"lan","locked":false,"approval":null}"#),
        "Setting access to lan .. ok\n",
    ),
    (
        &["approve", "lan", "092-333-444"],
        "",
        Some(r#"change {"change":"approve","network":"lan","member":"092-333-444"}"#),
        "Approving 092-333-444 in lan .. ok\n",
    ),
    (
        &["reject", "lan", "092-333-444"],
        "",
        Some(r#"change {"change":"reject","network":"lan","member":"092-333-444"}"#),
        "Rejecting 092-333-444 in lan .. ok\n",
    ),
    (
        &["evict", "lan", "092-333-444"],
        "",
        Some(r#"change {"change":"evict","network":"lan","member":"092-333-444","password":null}"#),
        "Evicting 092-333-444 from lan .. ok\n",
    ),
    (
        &["evict", "lan", "000-000-000"],
        "",
        Some(r#"change {"change":"evict","network":"lan","member":"000-000-000","password":null}"#),
        "Evicting 000-000-000 from lan .. failed, client not found\n",
    ),
    (
        &["go-online", "lan"],
        "",
        Some(r#"change {"change":"go-online","network":"lan"}"#),
        "Going online in lan .. ok\n",
    ),
    (
        &["go-offline", "lan"],
        "",
        Some(r#"change {"change":"go-offline","network":"lan"}"#),
        "Going offline in lan .. ok\n",
    ),
    (
        &["set-nick", "lamp"],
        "",
        Some("nick lamp"),
        "Setting nickname .. ok\n",
    ),
    (
        &["login"],
        "",
        Some("logged in true"),
        "Already logged in\n",
    ),
    (
        &["logon"],
        "",
        Some("logged in true"),
        "Already logged in\n",
    ),
    (
        &["logout"],
        "",
        Some("logged in false"),
        "Logging out .. ok\n",
    ),
    (
        &["logoff"],
        "",
        Some("logged in false"),
        "Logging out .. ok\n",
    ),
    (
        &["attach", "a@example.org"],
        "",
        None,
        "Attaching to a@example.org .. failed, Kanpachi has no accounts\n",
    ),
    (
        &["cancel"],
        "",
        None,
        "Cancelling .. failed, there is nothing to cancel\n",
    ),
    (
        &["set-ip-mode", "both"],
        "",
        None,
        "Setting IP mode .. ok\n",
    ),
    (
        &["set-ip-mode", "ipv4"],
        "",
        None,
        "Setting IP mode .. failed, Kanpachi always has both\n",
    ),
    (
        &["check-update"],
        "",
        None,
        "Checking for updates .. failed, Kanpachi is updated by whoever installed it\n",
    ),
    (
        &["network", "garden"],
        "",
        None,
        "Looking up garden .. failed, network not found\n",
    ),
    (
        &["peer", "000-000-000"],
        "",
        None,
        "Looking up 000-000-000 .. failed, client not found\n",
    ),
];

async fn hamachi(socket: &Path, args: &[&str], input: &str) -> Run {
    run_as("hamachi", socket, args, input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_gives_the_documented_reply() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    for (args, input, asked, reply) in CASES {
        let before = daemon.asked().len();
        let run = hamachi(&socket, args, input).await;
        assert_eq!(run.out, *reply, "{args:?}: {run:?}");
        assert_eq!(
            run.code == 0,
            !reply.contains(".. failed"),
            "{args:?}: {run:?}"
        );
        let said: Vec<String> = daemon.asked().split_off(before);
        assert_eq!(
            said,
            asked.iter().copied().collect::<Vec<&str>>(),
            "{args:?}"
        );
        assert!(
            run.err.is_empty() || args[0] == "evict",
            "{args:?}: {run:?}"
        );
    }
    let evicted = hamachi(&socket, &["evict", "lan", "092-333-444"], "").await;
    assert!(
        evicted.err.starts_with("lamp may know the password of lan"),
        "{evicted:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_and_the_blocks_come_from_the_daemon() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let list = hamachi(&socket, &["list"], "").await;
    assert_eq!(
        list.out,
        " * [lan]  capacity: 2/999, subscription type: Free, owner: This computer\n     \
         * 092-333-444   lamp                        198.19.77.1      alias: not set                            direct\n \
         * [hall]  capacity: 1/999, subscription type: Free, owner: none\n"
    );
    let bare = hamachi(&socket, &[], "").await;
    assert!(
        bare.out
            .contains("  client id  : 090-736-821\n  address    : 198.19.4.5\n"),
        "{bare:?}"
    );
    let network = hamachi(&socket, &["network", "lan"], "").await;
    assert!(
        network.out.contains("  owner    : This computer\n"),
        "{network:?}"
    );
    let peer = hamachi(&socket, &["peer", "092-333-444"], "").await;
    assert!(peer.out.contains("  nickname  : lamp\n"), "{peer:?}");
    // The same under the program's own name, options of Hamachi included.
    let own = run_with(&socket, &["hamachi", "list"], "").await;
    assert_eq!(own.out, list.out);
    for args in [&["-h"][..], &["--help"], &["-v"]] {
        for run in [
            hamachi(&socket, args, "").await,
            run_with(&socket, &[&["hamachi"], args].concat(), "").await,
        ] {
            assert!(
                run.code == 0
                    && run.out.starts_with(
                        "Hamachi, a zero-config virtual private networking utility, ver "
                    ),
                "{args:?}: {run:?}"
            );
        }
    }
    let slip = hamachi(&socket, &["frobnicate"], "").await;
    assert_eq!(
        (slip.code, slip.err.as_str()),
        (2, "this is not how hamachi is used: hamachi -h\n")
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_or_the_right_to_it_hamachi_has_its_own_words() {
    let daemon = Daemon::start();
    let nowhere = daemon.socket().with_file_name("nobody.sock");
    for args in [&[][..], &["list"], &["login"], &["join", "games", "geheim"]] {
        let run = hamachi(&nowhere, args, "").await;
        assert!(
            run.code == 4
                && run
                    .out
                    .starts_with("Hamachi does not seem to be running.\n"),
            "{args:?}: {run:?}"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped the rest: only root can try what other users may do");
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let program = daemon.socket().with_file_name("hamachi");
    std::fs::copy(env!("CARGO_BIN_EXE_kanpachi"), &program).unwrap();
    let run = std::process::Command::new(&program)
        .args(["join", "games", "geheim"])
        .env("KANPACHI_SOCKET", daemon.socket())
        .current_dir("/")
        .gid(nobody.gid.as_raw())
        .uid(nobody.uid.as_raw())
        .output()
        .unwrap();
    assert_eq!(
        (
            run.status.code(),
            String::from_utf8_lossy(&run.stdout).as_ref()
        ),
        (
            Some(3),
            "You do not have permission to control the hamachid daemon.\n"
        )
    );
    daemon.stop().await;
}
