//! The organisation: its manifest (which keys sign) and its directory (where its servers are).

use serde::{Deserialize, Serialize};

use crate::{
    addr::Pool,
    cbor::{DecodeError, Ext, check_ext, check_len},
    id::{NodeId, OrgId, PublicKey},
    signed::{Signed, SignedObject, Verified, VerifyError},
    time::UnixTime,
};

/// Signing keys in a manifest at the most.
pub const MAX_SIGNING_KEYS: usize = 8;
/// Servers of each kind in a directory at the most.
pub const MAX_SERVERS: usize = 32;
/// Addresses of one server at the most.
pub const MAX_ADDRESSES: usize = 16;
/// Longest host name or address text in bytes (RFC 1035: 253).
pub const MAX_HOST: usize = 253;

/// Which keys sign for the organisation. Signed by the root key and nothing else is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The root public key; the organisation's id is its SHA-256.
    pub root: PublicKey,
    /// Rises when keys change hands. Everything signed names the generation that it belongs to.
    pub generation: u64,
    /// Keys that may sign directories, heads and all below, in this generation.
    pub signing_keys: Vec<PublicKey>,
    /// When it was made.
    pub issued_at: UnixTime,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

impl SignedObject for Manifest {
    const DOMAIN: &'static str = "kanpachi/manifest/v1";
    const MAX_LEN: usize = 4096;

    fn check(&self) -> Result<(), DecodeError> {
        check_len(
            &self.signing_keys,
            MAX_SIGNING_KEYS,
            "too many signing keys",
        )?;
        if self.signing_keys.is_empty() {
            return Err(DecodeError::Invalid("no signing key"));
        }
        check_ext(&self.ext)
    }
}

impl Manifest {
    /// Checks a manifest against the organisation it should be of: the signer must be the root key whose hash
    /// is the organisation's id, and be the one named inside.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub fn verify(signed: &Signed<Self>, org: &OrgId) -> Result<Verified<Self>, VerifyError> {
        if OrgId::of_root(&signed.key) != *org {
            return Err(VerifyError::UntrustedKey);
        }
        let manifest = signed.verify(&[signed.key])?;
        if manifest.root == signed.key {
            Ok(manifest)
        } else {
            Err(VerifyError::UntrustedKey)
        }
    }

    /// The organisation.
    #[must_use]
    pub fn org(&self) -> OrgId {
        OrgId::of_root(&self.root)
    }
}

/// The transports that a server listens on at an address; bits.
pub mod transports {
    /// QUIC over UDP.
    pub const QUIC: u8 = 1;
    /// TCP with Noise and Yamux.
    pub const TCP: u8 = 2;
    /// WebSocket without TLS, at the same port as TCP.
    pub const WEBSOCKET: u8 = 4;

    /// What is served at a TCP port: WebSocket everywhere, but that is worth a try only where HTTP is expected.
    #[must_use]
    pub const fn of_tcp(port: u16) -> u8 {
        match port {
            80 | 443 | 8080 | 8443 => TCP | WEBSOCKET,
            _ => TCP,
        }
    }
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// IP address or DNS name.
    pub host: String,
    /// Port, the same for all its transports.
    pub port: u16,
    /// Bits of [`transports`].
    pub transports: u8,
}

impl Address {
    /// Both usual transports at one address.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            transports: transports::QUIC | transports::TCP,
        }
    }

    /// Limits on what is in it: no empty or endless names, no port 0, no odd characters.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`]
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.host.is_empty() || self.host.len() > MAX_HOST || self.port == 0 {
            return Err(DecodeError::Invalid("an address needs a host and a port"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if !self.host.chars().all(plain) {
            return Err(DecodeError::Invalid(
                "a host is an IP address or a DNS name",
            ));
        }
        Ok(())
    }

    /// Does anybody outside the local network get there? DNS names count as public: nobody writes one for less.
    #[must_use]
    pub fn is_public(&self) -> bool {
        use std::net::IpAddr;
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => {
                let shared = a.octets()[0] == 100 && a.octets()[1] & 0xc0 == 64;
                !(a.is_private()
                    || a.is_loopback()
                    || a.is_link_local()
                    || a.is_unspecified()
                    || shared)
            }
            Ok(IpAddr::V6(a)) => {
                !(a.is_loopback()
                    || a.is_unspecified()
                    || a.is_unique_local()
                    || a.is_unicast_link_local())
            }
            Err(_) => true,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A coordinator or bootstrap: its libp2p identity and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its libp2p identity.
    pub id: NodeId,
    /// Where it listens, best first.
    pub addresses: Vec<Address>,
}

/// The servers of the organisation. Signed by a signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The organisation.
    pub org: OrgId,
    /// Generation of the manifest that names the signer.
    pub generation: u64,
    /// Only rises within a generation.
    pub seq: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// The IPv4 pool.
    pub pool: Pool,
    /// Where nodes log in.
    pub coordinators: Vec<Server>,
    /// DHT bootstraps, reflectors, relays, mirrors.
    pub bootstraps: Vec<Server>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

impl SignedObject for Directory {
    const DOMAIN: &'static str = "kanpachi/directory/v1";
    const MAX_LEN: usize = 64 * 1024;

    fn check(&self) -> Result<(), DecodeError> {
        for list in [&self.coordinators, &self.bootstraps] {
            check_len(list, MAX_SERVERS, "too many servers")?;
            for server in list {
                check_len(
                    &server.addresses,
                    MAX_ADDRESSES,
                    "too many addresses of a server",
                )?;
                server.addresses.iter().try_for_each(Address::check)?;
            }
        }
        check_ext(&self.ext)
    }
}

impl Directory {
    /// Checks a directory against a manifest that was verified before.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub fn verify(
        signed: &Signed<Self>,
        manifest: &Manifest,
    ) -> Result<Verified<Self>, VerifyError> {
        let directory = signed.verify(&manifest.signing_keys)?;
        if directory.org != manifest.org() || directory.generation != manifest.generation {
            return Err(
                DecodeError::Invalid("a directory of another organisation or generation").into(),
            );
        }
        Ok(directory)
    }
}
