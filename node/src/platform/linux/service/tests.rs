//! The service below a root directory: what is written, what is refused, and that doing it twice is doing it once.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn system() -> (tempfile::TempDir, System) {
    let root = tempfile::tempdir().unwrap();
    let system = System::new(Some(root.path().to_owned()));
    (root, system)
}

#[test]
fn the_unit_has_the_line_that_is_replaced_and_nothing_else_changes() {
    assert_eq!(UNIT.matches(START).count(), 1);
    let text = unit("/opt/k/kanpachi", Some("vpn1"));
    assert!(text.contains("\nExecStart=/opt/k/kanpachi --interface vpn1 up\n"));
    assert_eq!(text.lines().count(), UNIT.lines().count());
    assert_eq!(unit("/usr/bin/kanpachi", None), UNIT);
}

#[test]
fn a_unit_is_written_once_and_a_changed_one_again() {
    let (root, system) = system();
    let path = root.path().join("etc/systemd/system/kanpachi.service");
    assert_eq!(system.write_unit("one").unwrap(), (path.clone(), true));
    assert_eq!(system.write_unit("one").unwrap(), (path.clone(), false));
    assert_eq!(system.write_unit("two").unwrap(), (path.clone(), true));
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn a_packages_unit_is_used_if_it_is_the_same() {
    let (root, system) = system();
    let directory = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&directory).unwrap();
    let packaged = directory.join(UNIT_NAME);
    fs::write(&packaged, "one").unwrap();
    assert_eq!(system.write_unit("one").unwrap(), (packaged, false));
    let (own, changed) = system.write_unit("two").unwrap();
    assert!(changed && own.starts_with(root.path().join("etc")));
}

#[test]
fn links_in_the_way_are_refused_and_nothing_is_written_or_removed_through_them() {
    let (root, system) = system();
    let victim = root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "data").unwrap();
    let directory = root.path().join(OWN_UNITS);
    fs::create_dir_all(&directory).unwrap();
    symlink(victim.join("precious"), directory.join(UNIT_NAME)).unwrap();
    let error = system.write_unit("one").unwrap_err();
    assert!(matches!(error, ServiceError::Link { .. }), "{error}");
    // What another put where the temporary file goes is replaced, not followed.
    fs::remove_file(directory.join(UNIT_NAME)).unwrap();
    symlink(
        victim.join("precious"),
        directory.join(format!(".{UNIT_NAME}.new")),
    )
    .unwrap();
    system.write_unit("one").unwrap();
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    symlink(&victim, root.path().join(STATE)).unwrap();
    let error = system.uninstall(true).unwrap_err();
    assert!(matches!(error, ServiceError::Link { .. }), "{error}");
    assert_eq!(fs::read_to_string(victim.join("precious")).unwrap(), "data");
}

#[test]
fn uninstalling_twice_is_fine_and_state_goes_only_when_asked_for() {
    let (root, system) = system();
    system.write_unit("one").unwrap();
    let state = root.path().join(STATE);
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("identity.key"), "key").unwrap();
    let done = system.uninstall(false).unwrap();
    assert!(done.unit.is_some() && !done.systemd);
    assert!(state.join("identity.key").exists());
    assert_eq!(system.uninstall(false).unwrap().unit, None);
    system.uninstall(true).unwrap();
    system.uninstall(true).unwrap();
    assert!(!state.exists());
}

#[test]
fn the_state_of_a_daemon_that_runs_is_not_purged() {
    let (root, system) = system();
    let state = root.path().join(STATE);
    fs::create_dir_all(&state).unwrap();
    let file = fs::File::create(state.join("lock")).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    let error = system.uninstall(true).unwrap_err();
    assert!(matches!(error, ServiceError::Running), "{error}");
    assert!(state.exists());
    drop(held);
    system.uninstall(true).unwrap();
    assert!(!state.exists());
}

#[test]
fn a_stale_socket_goes_and_a_live_one_stops_a_purge() {
    let (_root, system) = system();
    let socket = system.socket();
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(
        system.uninstall(true).unwrap_err(),
        ServiceError::Running
    ));
    assert!(socket.exists());
    drop(listener);
    system.uninstall(true).unwrap();
    assert!(!socket.parent().unwrap().exists());
}
