//! Where the running program is, and whether a service may run it from there. It will run with `CAP_NET_ADMIN` at every
//! start of the machine, so nobody but root may be able to put another in its place.

use std::{
    env, fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Places that the unit hides from the service (`ProtectHome`, `PrivateTmp`), or that are emptied at a restart.
const HIDDEN: [&str; 6] = ["/home", "/root", "/run", "/tmp", "/var/tmp", "/dev"];

/// Why a service cannot be made of this program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is gone, or replaced since it was started.
    #[error("the program at {} cannot be found ({source}): start it again by its full path", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Cargo's output.
    #[error("{} is in a build directory, which the next build changes: install it first, with `make install`", path.display())]
    Build {
        /// The program.
        path: PathBuf,
    },

    /// The service would not see it.
    #[error("{} is in {place}, where a service cannot run it from: install it first, to /usr/local/bin for instance", path.display())]
    Hidden {
        /// The program.
        path: PathBuf,
        /// The directory that is hidden.
        place: &'static str,
    },

    /// Others than root can replace it.
    #[error("others than root can replace {}: give it to root, mode 755, and install again", path.display())]
    Replaceable {
        /// The file or directory.
        path: PathBuf,
    },

    /// It would have to be quoted in the unit.
    #[error("the path {} has signs that a unit file gives a meaning to: install the program elsewhere, to /usr/local/bin for instance", path.display())]
    Signs {
        /// The program.
        path: PathBuf,
    },
}

/// The running program as the system below `root` will know it.
pub(super) fn running(root: &Path) -> Result<String, ProgramError> {
    let path = env::current_exe().map_err(|source| ProgramError::Gone {
        path: "/proc/self/exe".into(),
        source,
    })?;
    check(&path, root)
}

/// Checks a path and everything above it, as far as `root`.
fn check(path: &Path, root: &Path) -> Result<String, ProgramError> {
    let inside = match path.strip_prefix(root) {
        Ok(inside) => Path::new("/").join(inside),
        Err(_) => path.to_owned(),
    };
    let path = path.to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    let Some(text) = inside.to_str().filter(|text| text.chars().all(plain)) else {
        return Err(ProgramError::Signs { path });
    };
    if let Some(place) = HIDDEN.into_iter().find(|place| inside.starts_with(place)) {
        return Err(ProgramError::Hidden { path, place });
    }
    for part in path.ancestors().take_while(|part| *part != root) {
        // Cargo marks its output for backup programs.
        if part.join("CACHEDIR.TAG").exists() {
            return Err(ProgramError::Build { path });
        }
        let meta = fs::metadata(part).map_err(|source| ProgramError::Gone {
            path: part.to_owned(),
            source,
        })?;
        if meta.uid() != 0 || meta.permissions().mode() & 0o022 != 0 {
            return Err(ProgramError::Replaceable {
                path: part.to_owned(),
            });
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            println!("skipped: files of root are needed");
        }
        root
    }

    /// A root directory with a program in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/local/bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("kanpachi");
        fs::write(&program, "").unwrap();
        for path in program.ancestors().take_while(|p| *p != root.path()) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        (root, program)
    }

    #[test]
    fn only_what_root_alone_can_replace_becomes_a_service() {
        if !is_root() {
            return;
        }
        let (root, program) = place();
        assert_eq!(
            check(&program, root.path()).unwrap(),
            "/usr/local/bin/kanpachi"
        );
        for part in [program.as_path(), program.parent().unwrap()] {
            fs::set_permissions(part, fs::Permissions::from_mode(0o777)).unwrap();
            let error = check(&program, root.path()).unwrap_err();
            assert!(matches!(error, ProgramError::Replaceable { .. }), "{error}");
            fs::set_permissions(part, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::chown(&program, Some(65534), None).unwrap();
        let error = check(&program, root.path()).unwrap_err();
        assert!(matches!(error, ProgramError::Replaceable { .. }), "{error}");
    }

    #[test]
    fn build_directories_hidden_places_and_odd_names_are_told_apart() {
        if !is_root() {
            return;
        }
        let (root, program) = place();
        fs::write(root.path().join("usr/CACHEDIR.TAG"), "").unwrap();
        let error = check(&program, root.path()).unwrap_err();
        assert!(matches!(error, ProgramError::Build { .. }), "{error}");
        let error = check(&Path::new("/home").join("k"), Path::new("/")).unwrap_err();
        assert!(
            matches!(error, ProgramError::Hidden { place: "/home", .. }),
            "{error}"
        );
        let error = check(Path::new("/opt/a b/kanpachi"), Path::new("/")).unwrap_err();
        assert!(matches!(error, ProgramError::Signs { .. }), "{error}");
        let error = check(Path::new("/opt/nowhere/kanpachi"), Path::new("/")).unwrap_err();
        assert!(matches!(error, ProgramError::Gone { .. }), "{error}");
    }
}
