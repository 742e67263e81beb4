//! Addresses: nothing inside is ever called, by a reckoning of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use finalizer::courier::{Guard, GuardError, is_public};
use ipnet::IpNet;

/// Not public, by IANA's registries of special-purpose addresses; at the end, one cloud's own
/// address, and what embeds IPv4 addresses.
const INSIDE: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 \
    192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 \
    192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
    255.255.255.255/32 ::/128 ::1/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/32 \
    2001:1::1/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28 \
    2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 \
    fec0::/10 ff00::/8 168.63.129.16/32 ::/96 ::ffff:0:0:0/96";

/// Checks what is claimed of one address.
pub(crate) fn check_address(address: IpAddr) {
    let guard = Guard::default();
    let may_be_called = guard.vet(address);
    assert_eq!(may_be_called, is_public(address), "{address}");
    assert!(!(may_be_called && leads_inside(address)), "{address}");
    let plain = guard.check_address(address, false);
    assert_eq!(plain, Err(if may_be_called { GuardError::Http } else { GuardError::Address }));
}

/// Checks what is claimed of an operator who allows a network: exactly that is let through.
pub(crate) fn check_allowed(network: IpNet, address: IpAddr) {
    let guard = Guard { allow: vec![network], allow_http: false };
    let is_allowed = network.contains(&address.to_canonical());
    assert_eq!(guard.vet(address), is_allowed || is_public(address), "{address} of {network}");
    assert_eq!(guard.check_address(address, false).is_ok(), is_allowed, "{address} of {network}");
}

/// Checks what is claimed of one URL.
pub(crate) fn check_url(text: &str) {
    for allow_http in [false, true] {
        let guard = Guard { allow: vec![], allow_http };
        let Ok(url) = guard.check_url(text) else { continue };
        assert_eq!(guard.check_url(url.as_str()), Ok(url.clone()), "what is kept passes again");
        assert!(url.scheme() == "https" || (allow_http && url.scheme() == "http"), "{url}");
        assert!(!authority(url.as_str()).contains('@'), "{url}");
        assert!(!authority(text).split('@').rev().skip(1).any(is_somebody), "{text}");
        let host = url.host_str().unwrap();
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            assert!(!leads_inside(address), "{text}");
        }
        let uri = http::Uri::try_from(url.as_str()).unwrap();
        assert_eq!(uri.host(), Some(host), "the HTTP library calls the same host");
        assert_eq!(uri.port_u16(), url.port());
    }
}

/// What stands between the scheme and the path.
fn authority(url: &str) -> &str {
    let rest = url.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches('/');
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn is_somebody(userinfo: &str) -> bool {
    !userinfo.trim_matches(':').is_empty()
}

fn leads_inside(address: IpAddr) -> bool {
    static NETWORKS: OnceLock<Vec<IpNet>> = OnceLock::new();
    let networks = NETWORKS
        .get_or_init(|| INSIDE.split_whitespace().map(|net| net.parse().unwrap()).collect());
    if let Some(embedded) = embedded(address) {
        return leads_inside(embedded.into());
    }
    networks.iter().any(|network| network.contains(&address))
        || matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xe000 != 0x2000)
}

/// The IPv4 address that a packet to a mapped or a translated (NAT64) address ends at.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    let is_mapped = octets[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let is_translated = octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    let inside = [octets[12], octets[13], octets[14], octets[15]];
    (is_mapped || is_translated).then(|| inside.into())
}
