//! Options of sockets that have no safe wrapper.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Makes an IPv4 socket send each datagram whole or not at all, whatever ICMP says of the path: the tunnels find out by
/// themselves what a path carries. The shared socket is so already.
pub(crate) fn ignore_icmp(socket: &UdpSocket) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_PROBE;
    let bytes = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "neither std nor nix knows IP_MTU_DISCOVER")]
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            bytes,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_udp_socket_can_be_told_to_ignore_icmp() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        ignore_icmp(&socket).unwrap();
    }
}
