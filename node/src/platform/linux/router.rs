//! The default router, from the kernel's table of IPv4 routes.

use std::net::Ipv4Addr;

/// The route is up, and goes by a router (`linux/route.h`).
const UP_BY_ROUTER: u32 = 0x1 | 0x2;

/// The router of the best default route.
pub(super) fn default_router() -> Option<Ipv4Addr> {
    parse(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Columns: interface, destination, gateway, flags, references, uses, metric, mask; addresses as the machine has them
/// in memory.
fn parse(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let (destination, router, flags, mask) = (hex(1)?, hex(2)?, hex(3)?, hex(7)?);
        let metric: u32 = columns.get(6)?.parse().ok()?;
        let default = destination == 0 && mask == 0 && flags & UP_BY_ROUTER == UP_BY_ROUTER;
        default.then(|| (metric, Ipv4Addr::from(router.to_ne_bytes())))
    });
    routes.min().map(|(_, router)| router)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_route_counts() {
        let router = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let table = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             wlan0\t00000000\t{}\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t{}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n",
            router([10, 0, 0, 1]),
            router([192, 168, 1, 1])
        );
        assert_eq!(parse(&table), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("Iface\nx\ny z\n"), None);
    }
}
