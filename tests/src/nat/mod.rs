//! Hosts behind NATs: routers of every kind, what each does in the terms of RFC 4787, and what two hosts behind them
//! may expect of each other.
//!
//! ```text
//!   ==+===== public segment ========+=====================+==
//!     |                             |                     |
//!   gateway (nftables)        gateway (user space)     carrier (user space)
//!     |                             |                     |
//!   ==+== 192.168.1.0/24      ==+== LAN  ==+== LAN      ==+=== 100.64.0.0/24 ===+==
//!    host                      host       host          home router         home router
//!                                                         |                     |
//!                                                       host                  host
//! ```
//!
//! [`world::World`] builds hosts by [`world::Kind`], [`behaviour::expected`] says how a pair can talk at best, and
//! [`measure`] finds out what a NAT really does, by plain sockets.

pub mod behaviour;
pub mod device;
pub mod forwarder;
pub mod gateway;
pub mod joined;
pub mod matrix;
pub mod measure;
pub mod packet;
pub mod proxy;
pub mod table;
pub mod world;
