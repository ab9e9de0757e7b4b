//! Who is at the other end of a unix socket. The kernel recorded it at `connect`, so it cannot be forged and does not
//! change when the process later does.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{getsockopt, sockopt};

use crate::platform::PeerCredentials;

/// `NGROUPS_MAX` of Linux: no process has more supplementary groups.
const MAX_GROUPS: usize = 65_536;
/// Enough for nearly everybody at the first try.
const USUAL_GROUPS: usize = 64;

/// User, group, process and supplementary groups of the peer.
pub(super) fn of_peer(socket: &impl AsFd) -> io::Result<PeerCredentials> {
    let fd = socket.as_fd();
    let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(PeerCredentials {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid(),
        groups: supplementary_groups(&fd)?,
    })
}

/// SO_PEERGROUPS (Linux 4.13): unlike a look at /proc it cannot hit a reused process id.
fn supplementary_groups(fd: &impl AsRawFd) -> io::Result<Vec<u32>> {
    let mut capacity = USUAL_GROUPS;
    loop {
        let mut groups = vec![0u32; capacity];
        let mut bytes =
            libc::socklen_t::try_from(capacity * size_of::<u32>()).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "neither std nor nix knows SO_PEERGROUPS")]
        // SAFETY: `groups` is valid for `bytes` bytes and `bytes` for one socklen_t; the kernel writes no more.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = usize::try_from(bytes).map_err(io::Error::other)? / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE: too small, and `bytes` now holds what is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= capacity || count > MAX_GROUPS {
            return Err(error);
        }
        capacity = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_in_this_process_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let seen = of_peer(&ours).unwrap();
        assert_eq!(seen.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(seen.gid, nix::unistd::getegid().as_raw());
        assert_eq!(seen.pid, nix::unistd::getpid().as_raw());
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        let mut groups = seen.groups;
        own.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, own);
    }

    #[test]
    fn a_socket_without_a_peer_is_an_error_not_root() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // Other families answer with nobody's ids or refuse; never with 0.
        assert!(of_peer(&udp).map_or(true, |seen| seen.uid != 0 && !seen.groups.contains(&0)));
    }
}
