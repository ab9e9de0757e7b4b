//! The user and the group that the daemon runs as, made and removed by the system's own programs.

use std::path::{Path, PathBuf};

use super::{ACCOUNT, Result, ServiceError, tool};

/// What the account is in the list of users.
const COMMENT: &str = "Kanpachi";
const HOME: &str = "/var/lib/kanpachi";

/// Makes what is missing. A root directory without accounts gets none: whoever uses the image makes them.
pub(super) fn make(root: &Path) -> Result<()> {
    let Some(place) = Place::of(root) else {
        return Ok(());
    };
    let (user, group) = (place.has("passwd"), place.has("group"));
    if user && group {
        return Ok(());
    }
    let shell = ["/usr/sbin/nologin", "/sbin/nologin"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("/bin/false");
    if let (Some(useradd), Some(groupadd)) = (find("useradd"), find("groupadd")) {
        if !group {
            place.run(&groupadd, &["--system", ACCOUNT])?;
        }
        if !user {
            place.run(
                &useradd,
                &[
                    "--system",
                    "--gid",
                    ACCOUNT,
                    "--no-create-home",
                    "--home-dir",
                    HOME,
                    "--shell",
                    shell,
                    "--comment",
                    COMMENT,
                    ACCOUNT,
                ],
            )?;
        }
        return Ok(());
    }
    // BusyBox knows these two, and no other root.
    match (find("adduser"), find("addgroup")) {
        (Some(adduser), Some(addgroup)) if place.prefix.is_none() => {
            if !group {
                place.run(&addgroup, &["-S", ACCOUNT])?;
            }
            if !user {
                place.run(
                    &adduser,
                    &[
                        "-S", "-D", "-H", "-h", HOME, "-s", shell, "-G", ACCOUNT, ACCOUNT,
                    ],
                )?;
            }
            Ok(())
        }
        _ => Err(ServiceError::NoUserTool),
    }
}

/// Removes both. What cannot be removed for want of a program stays, and is no harm.
pub(super) fn remove(root: &Path) -> Result<()> {
    let Some(place) = Place::of(root) else {
        return Ok(());
    };
    for (list, programs) in [
        ("passwd", ["userdel", "deluser"]),
        ("group", ["groupdel", "delgroup"]),
    ] {
        // Removing the user may have removed its group too.
        if place.has(list)
            && let Some(program) = programs.into_iter().find_map(find)
        {
            place.run(&program, &[ACCOUNT])?;
        }
    }
    Ok(())
}

/// Where accounts are kept.
struct Place {
    etc: PathBuf,
    prefix: Option<String>,
}

impl Place {
    fn of(root: &Path) -> Option<Self> {
        let etc = root.join("etc");
        let prefix = (root != Path::new("/")).then(|| root.display().to_string());
        etc.join("passwd").is_file().then_some(Self { etc, prefix })
    }

    /// Whether the account is in `passwd` or `group`; on the real system also where else names come from.
    fn has(&self, list: &str) -> bool {
        if self.prefix.is_none() {
            return match list {
                "passwd" => matches!(nix::unistd::User::from_name(ACCOUNT), Ok(Some(_))),
                _ => matches!(nix::unistd::Group::from_name(ACCOUNT), Ok(Some(_))),
            };
        }
        std::fs::read_to_string(self.etc.join(list))
            .unwrap_or_default()
            .lines()
            .any(|line| line.split(':').next() == Some(ACCOUNT))
    }

    fn run(&self, program: &Path, args: &[&str]) -> Result<()> {
        let mut all = Vec::with_capacity(args.len() + 2);
        if let Some(prefix) = &self.prefix {
            all.extend(["--prefix", prefix]);
        }
        all.extend(args);
        tool(program, &all)
    }
}

/// A program of the administrator, who may have called us with a short `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}
