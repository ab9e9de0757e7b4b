//! Values of options, and whole command lines.

use clap::Parser as _;
use kanpachi_common::{Pool, Prefix};
use kanpachi_coordinator::addresses::Advertise;
use kanpachi_node::cli::args::Cli;

/// Most words of a command line that is tried.
const MAX_WORDS: usize = 32;

/// Pools, prefixes and addresses: what is read is sound and reads back.
///
/// # Panics
/// When that does not hold.
pub fn values(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(pool) = text.parse::<Pool>() {
        assert_eq!(pool.to_string().parse::<Pool>(), Ok(pool));
        for index in [0, 1, pool.capacity().saturating_sub(1)] {
            let host = pool.host(index);
            assert!(host.is_none_or(|host| pool.contains_host(host)));
        }
        assert_eq!(pool.host(pool.capacity()), None);
        assert_eq!(pool.host(u32::MAX), None);
    }
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert!(prefix.contains(prefix.addr()) && prefix.overlaps(&prefix));
        assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
    }
    if let Ok(advertise) = text.parse::<Advertise>() {
        assert_ne!(advertise.port, Some(0));
        assert!(!advertise.host.is_empty());
    }
}

/// A command line, a word a line: understood or explained, never a panic.
pub fn command_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words = text.lines().take(MAX_WORDS).filter(|w| !w.contains('\0'));
    if let Err(error) = Cli::try_parse_from(["kanpachi"].into_iter().chain(words)) {
        assert!(!error.to_string().is_empty());
    }
}
