//! Which addresses a webhook may go to. Pure: the same rule when an endpoint is made and at each POST.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustls::pki_types::DnsName;
use url::{Host, Url};

/// The longest URL of an endpoint, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// What the operator allows beyond public addresses over https.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Addresses that may be reached although they are not public, and without TLS: exactly these.
    /// An IPv6 address with an IPv4 address inside is not lifted by the latter, for NAT64 leads to
    /// another network's `10.0.0.1` than ours. Only a mapped one (`::ffff:10.0.0.1`) is the IPv4
    /// address itself, which is what the system connects to.
    pub allow: Vec<IpNet>,
    /// Every address may be reached without TLS.
    pub allow_http: bool,
}

/// Why a webhook does not go to a URL. Each sentence tells what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// Longer than any honest address.
    #[error("the URL is longer than {MAX_URL_BYTES} bytes: shorten it")]
    TooLong,
    /// Something that a URL consists of only in encoded form, and that libraries read differently.
    #[error(
        "the URL contains a space, a control character or a backslash: take it out, or write it \
         in the form %20"
    )]
    Character,
    /// No URL at all.
    #[error("this is not a URL: write it as https://host/path")]
    NotAUrl,
    /// Another scheme.
    #[error("webhooks go over https: write the URL as https://host/path")]
    Scheme,
    /// Without TLS, and nobody allowed it.
    #[error(
        "webhooks go over https: use an https:// URL, or have the operator allow http with \
         --allow-http, or with --allow-private for this address"
    )]
    Http,
    /// A user name or a password.
    #[error("take the user name and password out of the URL: the signature proves who is calling")]
    Userinfo,
    /// No name server and no certificate could know this host.
    #[error(
        "the URL's host is not a name: it needs labels of at most 63 letters, digits and hyphens, \
         253 bytes in all"
    )]
    Name,
    /// A port that no server has.
    #[error("port 0 cannot be called: write the port that your server listens on")]
    Port,
    /// An address that is not public.
    #[error(
        "the URL does not lead to a public address: use a public one, or have the operator allow \
         this one with --allow-private"
    )]
    Address,
}

impl Guard {
    /// The URL, if a webhook may go there as far as can be told without resolving its name.
    pub fn check_url(&self, text: &str) -> Result<Url, GuardError> {
        if text.len() > MAX_URL_BYTES {
            return Err(GuardError::TooLong);
        }
        // The parser would drop some of them without a word, and read a backslash as a slash.
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(GuardError::Character);
        }
        let url = Url::parse(text).map_err(|_| GuardError::NotAUrl)?;
        // Encoded it may be longer; and the encoded one is what is kept, and checked again.
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(GuardError::TooLong);
        }
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(GuardError::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Userinfo);
        }
        if url.port() == Some(0) {
            return Err(GuardError::Port);
        }
        match url.host().ok_or(GuardError::NotAUrl)? {
            Host::Domain(name) if DnsName::try_from(name).is_err() => return Err(GuardError::Name),
            Host::Ipv4(address) => self.check_address(address.into(), is_https)?,
            Host::Ipv6(address) => self.check_address(address.into(), is_https)?,
            // Whether the name leads to allowed addresses only is seen when it is resolved.
            Host::Domain(_) if is_https || self.allow_http || !self.allow.is_empty() => {}
            Host::Domain(_) => return Err(GuardError::Http),
        }
        // The HTTP library reads URLs more strictly; what it refuses is refused at once, not later.
        Uri::try_from(url.as_str()).map_err(|_| GuardError::NotAUrl)?;
        Ok(url)
    }

    /// Whether a connection to this address may be made, with or without TLS.
    pub fn check_address(&self, address: IpAddr, is_https: bool) -> Result<(), GuardError> {
        let address = address.to_canonical();
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        if !is_public(address) {
            return Err(GuardError::Address);
        }
        if is_https || self.allow_http { Ok(()) } else { Err(GuardError::Http) }
    }

    /// Whether a connection to this address may be made over https.
    pub fn vet(&self, address: IpAddr) -> bool {
        self.check_address(address, true).is_ok()
    }
}

/// Whether anybody may reach this address, and everybody know of it.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => translated(address).map_or(is_public_v6(address), is_public_v4),
    }
}

/// The IPv4 address that NAT64 (`64:ff9b::/96`) sends a packet on to, which is how networks
/// without IPv4 reach public IPv4 hosts.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !REFUSED_V4.iter().any(|net| net.contains(&address))
}

/// Only what is handed out as global unicast can be public, less what has another use within it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    GLOBAL_UNICAST.contains(&address) && !REFUSED_V6.iter().any(|net| net.contains(&address))
}

const REFUSED_V4: [Ipv4Net; 19] = [
    v4([0, 0, 0, 0], 8),        // this network
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carriers' NAT; metadata of one cloud
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // one cloud's own services, at a public-looking address
    v4([169, 254, 0, 0], 16),   // link-local; metadata of most clouds
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // protocol assignments
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 31, 196, 0], 24),  // AS112
    v4([192, 52, 193, 0], 24),  // AMT
    v4([192, 88, 99, 0], 24),   // 6to4 relays
    v4([192, 168, 0, 0], 16),   // private
    v4([192, 175, 48, 0], 24),  // AS112
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved
];

const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0], 3);

const REFUSED_V6: [Ipv6Net; 5] = [
    v6([0x2001, 0, 0], 23),         // Teredo, ORCHID, benchmarks
    v6([0x2001, 0xdb8, 0], 32),     // documentation
    v6([0x2002, 0, 0], 16),         // 6to4
    v6([0x2620, 0x4f, 0x8000], 48), // AS112
    v6([0x3fff, 0, 0], 20),         // documentation
];

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(start: [u16; 3], length: u8) -> Ipv6Net {
    let [a, b, c] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowing(nets: &[&str]) -> Guard {
        Guard { allow: nets.iter().map(|net| net.parse().unwrap()).collect(), allow_http: false }
    }

    fn is_refused(address: &str) -> bool {
        !Guard::default().vet(address.parse().unwrap())
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.1.1",
            "192.175.48.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2620:4f:8000::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::5efe:7f00:1",
            "fe80::5efe:7f00:1",
            "2001:0:101:101::80ff:fffe",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_refused(address), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass_their_neighbours_notwithstanding() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "2620:4f:7fff::1",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            assert!(!is_refused(address), "{address}");
        }
    }

    #[test]
    fn a_literal_is_vetted_however_it_is_spelt() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "①②⑦.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[0:0:0:0:0:ffff:7f00:1]",
            "[64:ff9b::127.0.0.1]",
            "169.254.169.254",
            "[fe80::1]",
            "[::]",
            "[2002:7f00:1::]",
            "[::ffff:0:127.0.0.1]",
            "0300.0250.1",
            "0xa9fea9fe",
            "169.254.43518",
            "10.1",
            "0",
        ] {
            let url = format!("https://{host}/hook");
            assert_eq!(Guard::default().check_url(&url), Err(GuardError::Address), "{url}");
        }
        assert_eq!(
            Guard::default().check_url("https://[fe80::1%25eth0]/"),
            Err(GuardError::NotAUrl)
        );
        assert!(Guard::default().check_url("https://1.1.1.1/").is_ok());
        assert!(Guard::default().check_url("https://[2606:4700::1111]:8443/").is_ok());
    }

    #[test]
    fn http_needs_leave() {
        let plain = Guard::default();
        assert_eq!(plain.check_url("http://example.com/"), Err(GuardError::Http));
        assert_eq!(plain.check_url("http://1.1.1.1/"), Err(GuardError::Http));

        let any_http = Guard { allow: vec![], allow_http: true };
        assert!(any_http.check_url("http://example.com/").is_ok());
        assert!(any_http.check_url("http://1.1.1.1/").is_ok());
        assert_eq!(any_http.check_url("http://127.0.0.1/"), Err(GuardError::Address));

        let inside = allowing(&["10.1.0.0/16", "::1/128"]);
        assert!(inside.check_url("http://10.1.2.3:9000/").is_ok());
        assert!(inside.check_url("http://[::1]:9000/").is_ok());
        assert!(inside.check_url("http://[::ffff:10.1.2.3]/").is_ok());
        assert_eq!(inside.check_url("http://10.2.0.1/"), Err(GuardError::Address));
        assert_eq!(inside.check_url("http://1.1.1.1/"), Err(GuardError::Http));
        assert!(inside.check_url("http://receiver.internal/").is_ok(), "decided when resolved");
        assert!(inside.check_address("10.1.2.3".parse().unwrap(), false).is_ok());
        assert_eq!(inside.check_address("1.1.1.1".parse().unwrap(), false), Err(GuardError::Http));
    }

    #[test]
    fn what_is_no_webhook_url_is_refused_with_the_reason() {
        let check = |url: &str| Guard::default().check_url(url).unwrap_err();
        assert_eq!(check(""), GuardError::NotAUrl);
        assert_eq!(check("example.com/hook"), GuardError::NotAUrl);
        assert_eq!(check("https://"), GuardError::NotAUrl);
        assert_eq!(check("https:///"), GuardError::NotAUrl);
        assert_eq!(check("ftp://example.com/"), GuardError::Scheme);
        assert_eq!(check("file:///etc/passwd"), GuardError::Scheme);
        assert_eq!(check("https://user@example.com/"), GuardError::Userinfo);
        assert_eq!(check("https://:secret@example.com/"), GuardError::Userinfo);
        let long = format!("https://example.com/{}", "a".repeat(2048));
        assert_eq!(check(&long), GuardError::TooLong);
        assert!(Guard::default().check_url(&long[..2048]).is_ok());
        let long_when_encoded = format!("https://example.com/{}", "é".repeat(500));
        assert_eq!(check(&long_when_encoded), GuardError::TooLong);
        assert!(Guard::default().check_url(&long_when_encoded[..600]).is_ok());
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for text in [
            " https://example.com/",
            "https://example.com/ ",
            "https://example.com/hook\n",
            "https://exa\tmple.com/",
            "https://example.com/a b",
            "https://example.com/\r\nx-forged: yes",
            "https://example.com\r\nx-forged: yes/",
            "https://example.com/\0",
            "https://example.com/\u{7f}",
            "https://example.com/\u{85}",
            "https://example.com/\u{a0}",
            "https://example.com/\u{2028}",
            "https:\\\\example.com\\hook",
            "https://example.com\\@10.0.0.1/",
            "https://example.com/#a b",
        ] {
            assert_eq!(Guard::default().check_url(text), Err(GuardError::Character), "{text:?}");
        }
    }

    #[test]
    fn a_host_must_be_a_name_and_a_port_a_port() {
        let (label, check) = ("a".repeat(63), |url: &str| Guard::default().check_url(url));
        let name = |labels: usize| vec![label.as_str(); labels].join(".");
        for host in [
            "example.com",
            "example.com.",
            "receiver",
            "a_b.example.com",
            "bücher.example",
            "xn--bcher-kva.example",
            "1.example",
            &label,
            &format!("{}.{}", name(3), "a".repeat(61)),
        ] {
            assert!(check(&format!("https://{host}/")).is_ok(), "{host}");
        }
        for host in [
            "a..b",
            ".",
            ".example.com",
            "example.com..",
            "-a.example",
            "a-.example",
            "a!b.example",
            "a,b",
            "(a)",
            &format!("{label}a"),
            &format!("{}.{}", name(3), "a".repeat(62)),
        ] {
            assert_eq!(check(&format!("https://{host}/")), Err(GuardError::Name), "{host}");
        }
        for host in ["a%00b", "a%2fb", "a<b", "a^b", "1.2.3.4.5", "256.1.1.1", "[::1", "[::g]"] {
            assert_eq!(check(&format!("https://{host}/")), Err(GuardError::NotAUrl), "{host}");
        }
        for port in ["1", "22", "443", "8443", "65535", ""] {
            assert!(check(&format!("https://example.com:{port}/")).is_ok(), "{port}");
        }
        assert_eq!(check("https://example.com:0/"), Err(GuardError::Port));
        assert_eq!(check("https://1.1.1.1:00/"), Err(GuardError::Port));
        for port in ["65536", "99999999999", "-1", "+1", "1e3", "https"] {
            let refused = check(&format!("https://example.com:{port}/"));
            assert_eq!(refused, Err(GuardError::NotAUrl), "{port}");
        }
    }

    #[test]
    fn what_is_allowed_is_exactly_the_network_that_was_named() {
        let may =
            |networks: &[&str], address: &str| allowing(networks).vet(address.parse().unwrap());
        let private = ["10.0.0.0/8"];
        assert!(may(&private, "10.0.0.0") && may(&private, "10.255.255.255"));
        assert!(!may(&private, "192.168.0.1") && !may(&private, "127.0.0.1"));
        assert!(may(&private, "::ffff:10.0.0.1"), "it is the same address");
        assert!(!may(&private, "64:ff9b::10.0.0.1"), "it may be another network's");
        assert!(!may(&private, "::10.0.0.1") && !may(&private, "::ffff:0:10.0.0.1"));
        assert!(!may(&private, "2002:a00:1::"));

        let translated = ["64:ff9b::a00:0/104"];
        assert!(may(&translated, "64:ff9b::10.0.0.1"));
        assert!(!may(&translated, "10.0.0.1") && !may(&translated, "64:ff9b::127.0.0.1"));

        for all_of_ipv6 in ["::/0", "::/96", "::ffff:0:0/96"] {
            assert!(!may(&[all_of_ipv6], "10.0.0.1"), "{all_of_ipv6}");
            assert!(!may(&[all_of_ipv6], "::ffff:10.0.0.1"), "{all_of_ipv6}");
        }
        assert!(may(&["::/0"], "fd00::1") && may(&["0.0.0.0/0"], "10.0.0.1"));
        assert!(!may(&["0.0.0.0/0"], "fd00::1"));
    }

    proptest! {
        /// The encoded URL is what is kept and checked again at each POST.
        #[test]
        fn what_was_accepted_once_is_accepted_as_it_was_kept(
            host in "[a-zé.-]{0,20}(:[0-9]{1,5})?",
            rest in "(/[ -~é]{0,700})?",
        ) {
            let guard = Guard::default();
            if let Ok(url) = guard.check_url(&format!("https://{host}{rest}")) {
                prop_assert_eq!(guard.check_url(url.as_str()), Ok(url.clone()));
                let uri = Uri::try_from(url.as_str()).unwrap();
                prop_assert_eq!(uri.host(), url.host_str());
                prop_assert_eq!(uri.port_u16(), url.port());
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), &url[url::Position::BeforePath..url::Position::AfterQuery]);
            }
        }

        #[test]
        fn a_mapped_address_is_the_one_inside_whatever_is_allowed(
            bits: u32,
            start: u32,
            length in 0..=32_u8,
        ) {
            let network = IpNet::new(Ipv4Addr::from(start).into(), length).unwrap();
            let (inside, guard) = (Ipv4Addr::from(bits), allowing(&[&network.to_string()]));
            let mapped = inside.to_ipv6_mapped().into();
            for is_https in [true, false] {
                let verdict = guard.check_address(inside.into(), is_https);
                prop_assert_eq!(guard.check_address(mapped, is_https), verdict);
            }
            if !network.contains(&IpAddr::V4(inside)) {
                let strict = Guard::default().check_address(inside.into(), false);
                prop_assert_eq!(guard.check_address(inside.into(), false), strict);
            }
        }

        #[test]
        fn an_embedded_address_has_the_verdict_of_the_one_inside(bits: u32) {
            let inside = Ipv4Addr::from(bits);
            let guard = Guard::default();
            let verdict = guard.vet(inside.into());
            prop_assert_eq!(guard.vet(inside.to_ipv6_mapped().into()), verdict);
            let nat64 = Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(guard.vet(nat64.into()), verdict);
        }

        #[test]
        fn no_address_of_a_refused_range_passes(range in 0..REFUSED_V4.len(), bits: u32) {
            let net = REFUSED_V4[range];
            let address = u32::from(net.network()) | (bits & u32::from(net.hostmask()));
            prop_assert!(!Guard::default().vet(Ipv4Addr::from(address).into()));
        }

        #[test]
        fn no_ipv6_address_outside_global_unicast_passes(bits: u128) {
            let address = Ipv6Addr::from(bits);
            prop_assume!(bits >> 125 != 1 && translated(address).is_none());
            prop_assume!(address.to_ipv4_mapped().is_none());
            prop_assert!(!Guard::default().vet(address.into()));
        }

        #[test]
        fn no_address_of_a_refused_ipv6_range_passes(range in 0..REFUSED_V6.len(), bits: u128) {
            let net = REFUSED_V6[range];
            let address = u128::from(net.network()) | (bits & u128::from(net.hostmask()));
            prop_assert!(!Guard::default().vet(Ipv6Addr::from(address).into()));
        }

        #[test]
        fn a_url_is_refused_exactly_when_its_literal_is(bits: u32) {
            let url = format!("https://{bits}/");
            let guard = Guard::default();
            prop_assert_eq!(guard.check_url(&url).is_ok(), guard.vet(Ipv4Addr::from(bits).into()));
        }

        #[test]
        fn no_text_makes_the_check_panic(text in ".{0,80}") {
            let _ = Guard::default().check_url(&text);
            let _ = Guard::default().check_url(&format!("https://{text}"));
        }
    }
}
