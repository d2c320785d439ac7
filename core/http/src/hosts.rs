//! Where requests may go: every link that a server sends is checked here before any header is attached to it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ingest_core::config::is_loopback;
use ingest_core::{Error, ErrorKind, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Origin, Url};

use crate::{Auth, ClientConfig};

/// A host that links, redirects and downloads may lead to, besides the endpoint itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// The host's name, or a pattern in which a leading `*.` stands for any labels: `*.my.salesforce.com`.
    pub pattern: String,
    /// Whether requests to it carry the credentials. Hosts of downloads do not.
    pub credentials: bool,
}

impl HostRule {
    /// A host that belongs to the API and gets its credentials.
    pub fn api(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), credentials: true }
    }

    /// A host from which files are fetched without credentials.
    pub fn download(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), credentials: false }
    }

    fn matches(&self, host: &str) -> bool {
        match self.pattern.strip_prefix("*.") {
            // A star elsewhere would let `*.example.com.evil.com` in by a typo; only whole leading labels match.
            Some(rest) => host.strip_suffix(rest).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            None => !self.pattern.contains('*') && self.pattern.eq_ignore_ascii_case(host),
        }
    }
}

/// A URL that passed the rules.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub url: Url,
    pub credentials: bool,
    /// Whether it was made of a path: its base is the API's, which a token endpoint may name.
    pub relative: bool,
}

/// The rules of one client.
#[derive(Clone)]
pub(crate) struct Hosts {
    endpoint: Url,
    origin: Origin,
    endpoint_is_local: bool,
    rules: Vec<HostRule>,
    plaintext: bool,
    allow_private: bool,
    by_user: bool,
    token_over_tls: bool,
}

impl Hosts {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self> {
        let endpoint = config.endpoint.clone();
        let local = endpoint.host_str().is_some_and(is_loopback);
        let plaintext = config.danger_plaintext || config.tls.mode == Some(ingest_core::config::Tls::DangerPlaintext);
        if local && !config.endpoint_by_user {
            return Err(Error::config("the endpoint is on this machine, but the user did not write it"));
        }
        if endpoint.scheme() == "http" && !local && !plaintext {
            return Err(Error::config("the endpoint is plain http: anyone on the way could read the credentials")
                .hint("write https://, or set `danger_plaintext: true` if the network is trusted"));
        }
        Ok(Self {
            origin: endpoint.origin(),
            endpoint,
            endpoint_is_local: local,
            rules: config.hosts.clone(),
            plaintext,
            allow_private: config.allow_private,
            by_user: config.endpoint_by_user,
            token_over_tls: matches!(&config.auth, Auth::OAuth(oauth) if oauth.token_url.starts_with("https:")),
        })
    }

    pub(crate) fn endpoint_is_local(&self) -> bool {
        self.endpoint_is_local
    }

    /// Whether any request can need certificates.
    pub(crate) fn needs_tls(&self) -> bool {
        self.endpoint.scheme() == "https" || !self.rules.is_empty() || self.token_over_tls
    }

    /// A path of the API, relative to the endpoint, with or without a leading slash.
    pub(crate) fn path(&self, path: &str) -> Result<Target> {
        let relative = path.trim_start_matches('/');
        let mut url = self.endpoint.clone();
        let (path, query) = relative.split_once('?').map_or((relative, None), |(p, q)| (p, Some(q)));
        // Set, not joined: a path such as `//host` or `..` stays a path.
        url.set_path(&format!("{}{path}", self.endpoint.path()));
        url.set_query(query);
        if url.origin() != self.origin || !url.path().starts_with(self.endpoint.path()) {
            return Err(Error::unexpected("a path of the API leads out of its endpoint"));
        }
        Ok(Target { url, credentials: true, relative: true })
    }

    /// A link that a server sent, resolved against the page it came with.
    pub(crate) fn link(&self, base: &Url, link: &str) -> Result<Target> {
        let refuse = |what: &str, host: Option<&str>| {
            let error = Error::new(ErrorKind::DataInvalid, format!("refused to follow a link: {what}"))
                .hint("the source sent a link that its API does not use; if the host is right, it has to be listed");
            match host {
                Some(host) => error.with("host", host),
                None => error,
            }
        };
        if link.len() > 16 << 10 || link.bytes().any(|b| b < b' ' || b == 0x7f || b == b'\\') {
            return Err(refuse("it is not a URL", None));
        }
        let url = base.join(link).map_err(|_| refuse("it is not a URL", None))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("it is neither http nor https", None));
        }
        let host = url.host_str().ok_or_else(|| refuse("it has no host", None))?.to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it holds a user name", Some(&host)));
        }
        if base.scheme() == "https" && url.scheme() == "http" {
            return Err(refuse("it leads from https to http", Some(&host)));
        }
        if url.scheme() == "http" && !is_loopback(&host) && !self.plaintext {
            return Err(refuse("it is plain http", Some(&host)));
        }
        let same = url.origin() == self.origin;
        // A rule names a host, and means the service on its usual port; on this machine every port is another test's.
        let usual = url.port().is_none() || (self.endpoint_is_local && is_loopback(&host));
        let rule = self.rules.iter().find(|rule| usual && rule.matches(&host));
        if !same && rule.is_none() {
            return Err(refuse("its host is not one of the API", Some(&host)));
        }
        if !same && is_loopback(&host) && !self.endpoint_is_local {
            return Err(refuse("it leads to this machine", Some(&host)));
        }
        if !same {
            self.check_literal(&url).map_err(|what| refuse(what, Some(&host)))?;
        }
        let credentials = same || rule.is_some_and(|rule| rule.credentials);
        Ok(Target { url, credentials, relative: false })
    }

    /// The base URL of the API as a token endpoint names it: held to the rules of links, and to get the credentials.
    pub(crate) fn api(&self, named: &str) -> Result<Url> {
        let target = self.link(&self.endpoint, named)?;
        if !target.credentials || target.url.path() != "/" || target.url.query().is_some() {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "the token endpoint names a base URL that the API does not use",
            )
            .with("host", target.url.host_str().unwrap_or_default()));
        }
        Ok(target.url)
    }

    /// The same path below the base URL that the token endpoint named.
    pub(crate) fn moved(&self, target: &Target, api: &Url) -> Target {
        let mut url = api.clone();
        let path = target.url.path().strip_prefix(self.endpoint.path()).unwrap_or(target.url.path());
        url.set_path(path);
        url.set_query(target.url.query());
        Target { url, ..target.clone() }
    }

    /// The token endpoint comes from the connector, so it is only held to the rules of transport.
    pub(crate) fn token_endpoint(&self, text: &str) -> Result<()> {
        let wrong = |what: &str| Error::config(format!("the token endpoint {what}"));
        let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
        let host = url.host_str().ok_or_else(|| wrong("has no host"))?;
        match url.scheme() {
            "https" => Ok(()),
            "http" if is_loopback(host) && self.endpoint_is_local => Ok(()),
            "http" if self.plaintext => Ok(()),
            _ => Err(wrong("is not https")),
        }
    }

    /// A host written as an address never passes the resolver, so it is checked here.
    fn check_literal(&self, url: &Url) -> Result<(), &'static str> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return Ok(()),
        };
        if is_public(address) || self.allow_private || (address.is_loopback() && self.endpoint_is_local) {
            return Ok(());
        }
        Err("it leads into a private network")
    }

    /// The resolver that drops addresses a host must not have.
    pub(crate) fn resolver(&self) -> Arc<PublicOnly> {
        let mut trusted: HashSet<String> = proxy_hosts();
        if self.by_user
            && let Some(host) = self.endpoint.host_str()
        {
            trusted.insert(host.to_ascii_lowercase());
        }
        Arc::new(PublicOnly { trusted, allow_private: self.allow_private })
    }
}

/// Whether an address is one of the open internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            // NAT64 and 6to4 carry an IPv4 address inside.
            if segments[0] == 0x64 && segments[1] == 0xff9b {
                let [.., high, low] = segments;
                return is_public(IpAddr::V4(embedded(high, low)));
            }
            if segments[0] == 0x2002 {
                return is_public(IpAddr::V4(embedded(segments[1], segments[2])));
            }
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || segments[0] == 0x100
                || (segments[0] == 0x2001 && segments[1] == 0xdb8)
                || segments[..6] == [0; 6])
        }
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

/// Resolves through the system and drops private addresses, so that a name cannot lead into the inner network.
pub(crate) struct PublicOnly {
    /// Hosts that a person named: the endpoint, the proxies of the environment.
    trusted: HashSet<String>,
    allow_private: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let any = self.allow_private || self.trusted.contains(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let total = found.len();
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|address| any || is_public(address.ip())).collect();
            if allowed.is_empty() && total > 0 {
                return Err(PrivateAddress.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A host name led into a private network.
#[derive(Debug)]
pub(crate) struct PrivateAddress;

impl std::fmt::Display for PrivateAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the host's name leads to a private address")
    }
}

impl std::error::Error for PrivateAddress {}

/// The hosts of the proxies that the environment names: they commonly have private addresses.
fn proxy_hosts() -> HashSet<String> {
    let names = ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
    names
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter_map(|value| {
            let url = Url::parse(&value).ok().filter(Url::has_host);
            let url = url.or_else(|| Url::parse(&format!("http://{value}")).ok())?;
            url.host_str().map(str::to_ascii_lowercase)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(endpoint: &str, by_user: bool, rules: &[HostRule]) -> Hosts {
        let user = by_user.then_some(endpoint);
        let mut config = ClientConfig::new(endpoint, user).expect("a good endpoint");
        config.hosts = rules.to_vec();
        Hosts::new(&config).expect("good rules")
    }

    /// Whether a link is followed, and whether with credentials.
    fn follows(hosts: &Hosts, link: &str) -> Option<bool> {
        let base = Url::parse("https://api.example.com/v1/items?page=1").expect("a URL");
        hosts.link(&base, link).ok().map(|target| target.credentials)
    }

    #[test]
    fn links_stay_with_the_origin_and_the_listed_hosts() {
        let rules =
            [HostRule::api("*.my.example.com"), HostRule::download("files.example.net"), HostRule::api("10.1.2.3")];
        let hosts = hosts("https://api.example.com/v1", false, &rules);
        for (link, want) in [
            ("/v1/items?page=2", Some(true)),
            ("?page=2", Some(true)),
            ("items", Some(true)),
            ("https://api.example.com/v2/other", Some(true)),
            ("https://API.example.com:443/x", Some(true)),
            ("https://na1.my.example.com/x", Some(true)),
            ("https://a.b.my.example.com/x", Some(true)),
            ("https://files.example.net/result.gz?signature=1", Some(false)),
            ("https://my.example.com/x", None),
            ("https://evilmy.example.com/x", None),
            ("https://na1.my.example.com.evil.net/x", None),
            ("https://na1.my.example.com:8443/x", None),
            ("https://api.example.com:8443/x", None),
            ("http://api.example.com/x", None),
            ("http://files.example.net/x", None),
            ("https://evil.net/", None),
            ("//evil.net/x", None),
            ("///evil.net/x", None),
            ("\\\\evil.net\\x", None),
            ("/\\evil.net/x", None),
            // A scheme without slashes is a relative path for a base of the same scheme.
            ("https:evil.net", Some(true)),
            ("https://good@api.example.com/x", None),
            ("https://api.example.com@evil.net/x", None),
            ("https://api.example.com:pass@api.example.com/x", None),
            ("file:///etc/passwd", None),
            ("ftp://api.example.com/x", None),
            ("javascript:alert(1)", None),
            ("data:text/plain,x", None),
            ("https://127.0.0.1/x", None),
            ("https://localhost/x", None),
            ("https://10.1.2.3/x", None),
            ("https://169.254.169.254/latest", None),
            ("https://[::1]/x", None),
            ("https://2130706433/x", None),
            ("/x\r\nHost: evil.net", None),
            ("https://api.example.com\t.evil.net/", None),
        ] {
            assert_eq!(follows(&hosts, link), want, "{link:?}");
        }
    }

    #[test]
    fn paths_cannot_leave_the_endpoint() {
        let hosts = hosts("https://api.example.com/base", false, &[]);
        for path in ["//evil.net/x", "../../x", "https://evil.net/", "x?y=1#z", "/v1/%2e%2e/%2e%2e/x", "\\\\evil"] {
            if let Ok(target) = hosts.path(path) {
                assert_eq!(target.url.host_str(), Some("api.example.com"), "{path}");
                assert!(target.url.path().starts_with("/base/"), "{path}: {}", target.url);
            }
        }
        assert_eq!(
            hosts.path("/v1/items?a=b").expect("a path").url.as_str(),
            "https://api.example.com/base/v1/items?a=b"
        );
    }

    #[test]
    fn endpoints_are_https_or_on_this_machine() {
        let open = |endpoint: &str, by_user: bool| {
            let config =
                ClientConfig::new("https://api.example.com", by_user.then_some(endpoint)).map(|mut config| {
                    if !by_user {
                        config.endpoint = Url::parse(endpoint).expect("a URL");
                    }
                    config
                })?;
            Hosts::new(&config)
        };
        assert!(open("http://127.0.0.1:8080", true).is_ok());
        assert!(open("http://localhost:8080/x", true).is_ok());
        assert!(open("http://127.0.0.1:8080", false).is_err());
        assert!(open("http://api.example.com", true).is_err());
        assert!(open("http://127.0.0.1.example.com", true).is_err());
        assert!(open("https://user:pass@api.example.com", true).is_err());
        assert!(open("https://api.example.com/?key=x", true).is_err());
        assert!(open("ftp://api.example.com", true).is_err());
        let mut config = ClientConfig::new("x", Some("http://api.example.com")).expect("a URL");
        config.danger_plaintext = true;
        assert!(Hosts::new(&config).is_ok());
    }

    #[test]
    fn addresses_of_inner_networks_are_known() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::10.0.0.1",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
        for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_into_the_inner_network_is_refused() {
        let resolve = |trusted: &[&str], allow_private| {
            let trusted = trusted.iter().map(|host| (*host).to_owned()).collect();
            PublicOnly { trusted, allow_private }.resolve("localhost".parse().expect("a name"))
        };
        let refused = resolve(&["elsewhere"], false).await.err().expect("refused");
        assert!(refused.is::<PrivateAddress>());
        assert!(resolve(&["localhost"], false).await.expect("named by the user").count() > 0);
        assert!(resolve(&[], true).await.expect("allowed").count() > 0);
    }
}
