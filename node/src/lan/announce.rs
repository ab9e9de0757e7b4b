//! Makes a host visible on the LAN.

use std::time::Duration;

use kanpachi_common::{NodeId, OrgId, Prefix, wire::MAX_VERSION};
use mdns_sd::{ServiceDaemon, ServiceInfo};

use super::{SERVICE, txt};

/// How long a goodbye may take to leave this machine.
const GOODBYE: Duration = Duration::from_millis(300);

/// What others see.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) org: OrgId,
    /// The libp2p identity behind the port.
    pub(crate) host: NodeId,
    /// Name of the machine.
    pub(crate) name: String,
    /// Name of the network.
    pub(crate) network: String,
    pub(crate) port: u16,
}

/// A host that is seen until this is closed.
pub(crate) struct Announcement {
    daemon: ServiceDaemon,
    full_name: String,
}

impl std::fmt::Debug for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Announcement")
            .field(&self.full_name)
            .finish()
    }
}

impl Announcement {
    /// Shows the card on every interface but the overlay's, whatever comes and goes.
    pub(crate) fn start(
        card: &Card,
        interface: &str,
        overlay: Vec<Prefix>,
    ) -> mdns_sd::Result<Self> {
        let daemon = super::mdns(interface, overlay)?;
        let id = card.host.to_string();
        let version = MAX_VERSION.to_string();
        let org = card.org.to_string();
        let properties = [
            (txt::VERSION, version.as_str()),
            (txt::ORG, &org),
            (txt::ID, &id),
            (txt::NAME, &card.name),
            (txt::NETWORK, &card.network),
        ];
        // The identity is as unique as a name has to be, and the same after a restart.
        let host = format!("kanpachi-{}.local.", card.host.short().to_ascii_lowercase());
        let service = ServiceInfo::new(SERVICE, &id, &host, "", card.port, &properties[..])?
            .enable_addr_auto();
        let full_name = service.get_fullname().to_owned();
        daemon.register(service)?;
        Ok(Self { daemon, full_name })
    }

    /// Takes its leave, so that nobody is shown a host that is gone. Blocks for a moment.
    pub(crate) fn close(self) {
        if let Ok(done) = self.daemon.unregister(&self.full_name) {
            let _ = done.recv_timeout(GOODBYE);
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = done.recv_timeout(GOODBYE);
        }
    }
}
