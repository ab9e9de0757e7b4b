//! Show 7: a service that stays. Installed, killed, started anew with the same address, and gone without a trace.
//!
//! The service manager is a stand-in that goes by the installed unit; what only systemd can tell is asked of
//! `systemd-analyze` where there is one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Overlay;
use kanpachi_tests::lab::{Host, Lab, installed, run};
use kanpachi_tests::mesh::Hub;
use kanpachi_tests::process::Output;
use kanpachi_tests::service::{Manager, Root};
use kanpachi_tests::wait::eventually;
use kanpachi_tests::{note, shell};
use nix::sys::signal::Signal;

/// From the kill until the service is ready again. systemd waits two seconds more (`RestartSec`).
const BACK: Duration = Duration::from_secs(10);

fn hub_and_root(lab: &mut Lab) -> Result<(Hub, Host, Root)> {
    let host = lab.public_host("hub")?;
    let hub = Hub::start(lab, &host, &[])?;
    let host = lab.public_host("alice")?;
    let root = Root::new(lab, &host)?;
    Ok((hub, host, root))
}

fn overlay(root: &Root) -> Result<Overlay> {
    Overlay::from(&root.kanpachi(&["--json", "status"]).output("")?.json()?)
}

/// The error of a command that printed JSON.
fn error(output: &Output) -> Result<(i32, String)> {
    let line = output.stdout.lines().last().context("nothing on stdout")?;
    let code = serde_json::from_str::<serde_json::Value>(line)?["error"]["code"].clone();
    Ok((
        output.status.code().context("no exit code")?,
        code.as_str().context("no code")?.to_owned(),
    ))
}

/// The adapter is up with both addresses, as the kernel says.
fn adapter_is_up(host: &Host, overlay: &Overlay) -> Result<()> {
    let text = shell::run(
        "ip",
        &["-n", host.ns.name(), "address", "show", "kanpachi0"],
    )?;
    for address in overlay.addresses() {
        ensure!(text.contains(&address.to_string()), "no {address}: {text}");
    }
    ensure!(text.contains(",UP"), "{text}");
    Ok(())
}

/// No interface, and no route into the overlay.
fn nothing_in_the_network(host: &Host) -> Result<()> {
    let links = shell::run("ip", &["-n", host.ns.name(), "link"])?;
    ensure!(!links.contains("kanpachi0"), "{links}");
    for family in ["-4", "-6"] {
        let args = [
            family,
            "-n",
            host.ns.name(),
            "route",
            "show",
            "table",
            "all",
        ];
        let routes = shell::run("ip", &args)?;
        ensure!(
            !routes.contains("kanpachi0") && !routes.contains("198.19."),
            "{routes}"
        );
    }
    Ok(())
}

#[test]
fn installed_killed_back_and_gone() {
    run("service-show7", |lab| {
        let (hub, host, root) = hub_and_root(lab)?;
        let reply = root.service(&["install"])?.json()?;
        ensure!(
            reply["installed"] == true && reply["running"] == false,
            "{reply}"
        );
        let unit = fs::read_to_string(root.unit())?;
        ensure!(
            unit.contains("\nExecStart=/usr/local/bin/kanpachi up\n"),
            "{unit}"
        );
        root.service(&["install"])?.json()?;
        ensure!(
            unit == fs::read_to_string(root.unit())?,
            "the second install changed it"
        );

        let mut manager = Manager::start(&root)?;
        let invite = hub.invite()?;
        root.kanpachi(&["--json", "join", "-"])
            .output(invite)?
            .json()?;
        let before = overlay(&root)?;
        adapter_is_up(&host, &before)?;
        let signs = manager.signs_of_life(3)?;
        note(format_args!(
            "{signs} signs of life within three limits of the watchdog"
        ));

        let start = Instant::now();
        manager.process.signal(Signal::SIGKILL)?;
        ensure!(
            manager.after_the_end()?,
            "SIGKILL was the end of the service"
        );
        // Ready means: the adapter is there. Nothing is waited for here.
        adapter_is_up(&host, &before)?;
        let took = start.elapsed();
        note(format_args!(
            "back {:.1} s after SIGKILL",
            took.as_secs_f64()
        ));
        ensure!(took < kanpachi_tests::wait::scaled(BACK), "{took:?}");
        ensure!(
            overlay(&root)? == before,
            "another address after the restart"
        );
        manager.signs_of_life(1)?;
        logs_name_nobody(&manager.process.stderr(), &hub, invite)?;

        purge_waits_for_the_daemon(&root)?;
        ensure!(manager.stop()?.success());
        ensure!(
            manager.said.iter().any(|line| line == "STOPPING=1"),
            "{:?}",
            manager.said
        );
        root.service(&["uninstall", "--purge"])?.json()?;
        nothing_is_left(&root, &host)?;
        let again = root.service(&["uninstall", "--purge"])?.json()?;
        ensure!(again["unit"].is_null(), "{again}");
        Ok(())
    });
}

fn purge_waits_for_the_daemon(root: &Root) -> Result<()> {
    let refused = root.service(&["uninstall", "--purge"])?;
    ensure!(
        error(&refused)? == (5, "daemon_running".to_owned()),
        "{refused:?}"
    );
    ensure!(root.state().join("identity.key").exists() && root.unit().exists());
    Ok(())
}

fn nothing_is_left(root: &Root, host: &Host) -> Result<()> {
    for path in [root.unit(), root.state(), root.socket()] {
        ensure!(
            fs::symlink_metadata(&path).is_err(),
            "{} is left",
            path.display()
        );
    }
    ensure!(
        !root.path.join("run/kanpachi").exists(),
        "the directory of the socket is left"
    );
    for list in ["passwd", "group"] {
        let text = fs::read_to_string(root.path.join("etc").join(list))?;
        ensure!(!text.contains("kanpachi"), "{list}: {text}");
    }
    nothing_in_the_network(host)
}

/// At the usual level the log has no address of another machine and no secret.
fn logs_name_nobody(log: &str, hub: &Hub, invite: &str) -> Result<()> {
    let secret = invite.split('#').nth(1).context("no secret")?;
    ensure!(!log.is_empty(), "nothing was logged");
    for word in [
        &hub.node.host.v4.to_string(),
        &hub.node.host.v6.to_string(),
        secret,
    ] {
        ensure!(!log.contains(word), "{word} is in the log: {log}");
    }
    Ok(())
}

#[test]
fn down_is_not_undone_by_the_service_manager() {
    run("service-down", |lab| {
        let (hub, host, root) = hub_and_root(lab)?;
        root.service(&["install"])?.json()?;
        let mut manager = Manager::start(&root)?;
        root.kanpachi(&["--json", "join", "-"])
            .output(hub.invite()?)?
            .json()?;
        root.kanpachi(&["--json", "down"]).output("")?.json()?;
        ensure!(!manager.after_the_end()?, "`kanpachi down` was undone");
        nothing_in_the_network(&host)?;
        ensure!(
            root.state().join("identity.key").exists(),
            "the keys are gone"
        );
        Ok(())
    });
}

/// A `systemctl` that writes down how it was called. It stops a daemon by its socket, as `disable --now` would.
const SYSTEMCTL: &str = "#!/bin/sh
root=${0%/usr/bin/systemctl}
echo \"$*\" >>\"$root/calls\"
case $1 in
is-active) [ -S \"$root/run/kanpachi/kanpachi.sock\" ] ;;
disable) \"$root/usr/local/bin/kanpachi\" --socket \"$root/run/kanpachi/kanpachi.sock\" down >/dev/null 2>&1; true ;;
esac
";

#[test]
fn join_with_service_installs_starts_and_joins() {
    run("service-join", |lab| {
        let (hub, host, root) = hub_and_root(lab)?;
        fs::create_dir_all(root.path.join("run/systemd/system"))?;
        write_program(&root.path.join("usr/bin/systemctl"), SYSTEMCTL)?;
        let directory = root.path.display().to_string();
        let args = ["--json", "join", "--service", "--root", &directory, "-"];
        let (joined, manager) = std::thread::scope(|scope| -> Result<_> {
            let join = scope.spawn(|| root.kanpachi(&args).output(hub.invite()?)?.json());
            let calls = || Ok(fs::read_to_string(root.path.join("calls"))?);
            eventually(
                Duration::from_secs(10),
                "systemctl is told to start it",
                || {
                    let calls: Result<String> = calls();
                    ensure!(calls?.contains("restart kanpachi.service"), "not yet");
                    Ok(())
                },
            )?;
            let manager = Manager::start(&root)?;
            let joined = join.join().ok().context("the joining thread panicked")??;
            Ok((joined, manager))
        })?;
        adapter_is_up(&host, &Overlay::from(&joined)?)?;
        let calls = fs::read_to_string(root.path.join("calls"))?;
        let expected = "daemon-reload\nenable kanpachi.service\nrestart kanpachi.service\n";
        ensure!(calls == expected, "{calls}");

        root.service(&["uninstall", "--purge"])?.json()?;
        drop(manager);
        nothing_is_left(&root, &host)
    });
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[test]
fn systemd_understands_the_unit() {
    run("service-unit", |lab| {
        if !Path::new("/run/systemd/system").exists() {
            note("systemd does not run here: not available, so its service manager was not tried");
        }
        if !installed("systemd-analyze") {
            note("systemd-analyze: not available");
            return Ok(());
        }
        let host = lab.public_host("alice")?;
        let root = Root::new(lab, &host)?;
        root.service(&["install"])?.json()?;
        // The program must exist for it, at the path that the unit names.
        let text = fs::read_to_string(root.unit())?.replace("/usr/local/bin/kanpachi", "/bin/true");
        let unit = lab.directory().join("kanpachi.service");
        fs::write(&unit, text)?;
        let unit = unit.display().to_string();
        shell::run("systemd-analyze", &["verify", "--man=no", &unit])?;
        // 0 is shut off from everything, 10 from nothing. It fails above the threshold, here 2.5.
        let args = ["security", "--offline=true", "--threshold=25", &unit];
        let report = shell::run("systemd-analyze", &args)?;
        note(report.lines().last().unwrap_or_default());
        Ok(())
    });
}
