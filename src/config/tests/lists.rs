//! What the lists of origins, host names and proxies take and refuse.

use super::*;

#[test]
fn origins_are_exact_or_any() {
    let origins = |text: &str| load("", &[("TIDINGS__CORS__ORIGINS", text)], None).map(|config| config.cors.origins);
    let only = |items: &[&str]| Origins::Only(items.iter().map(|&item| item.to_owned()).collect());
    assert_eq!(origins("").unwrap(), only(&[]));
    assert_eq!(origins("*").unwrap(), Origins::Any);
    for good in ["https://app.example.com", "http://[::1]:8080", "http://10.0.0.1", "https://x:80"] {
        assert_eq!(origins(good).unwrap(), only(&[good]));
    }
    assert_eq!(origins(" https://a , https://b, ").unwrap(), only(&["https://a", "https://b"]));
    for bad in [
        "null",
        "https://a,*",
        "https://a/",
        "https://a/b",
        "https://a?b",
        "HTTPS://a",
        "https://A",
        "https://",
        "https://a:443",
        "http://a:80",
        "https://a:0",
        "https://a:080",
        "https://a:",
        "https://a..b",
        "https://*.a",
        "https://u@a",
        "ftp://a",
        "http://[0:0::1]",
        "https://a b",
    ] {
        assert!(origins(bad).is_err(), "{bad}");
    }
    let file = "[cors]\norigins = [\"https://a\", \"https://b\"]";
    assert_eq!(load(file, &[], None).unwrap().cors.origins, only(&["https://a", "https://b"]));
    let many = |n: usize| vec!["https://a"; n].join(",");
    assert!(origins(&many(1000)).is_ok());
    assert!(origins(&many(1001)).is_err());
}

#[test]
fn host_names_are_kept_in_one_spelling_up_to_a_limit() {
    let hosts = |text: &str| load("", &[("TIDINGS__SERVER__HOSTS", text)], None).map(|config| config.server.hosts);
    assert_eq!(hosts("").unwrap(), [""; 0]);
    assert_eq!(
        hosts(" Push.Example.COM. ,a_b,[::1], 10.0.0.1").unwrap(),
        ["push.example.com", "a_b", "[::1]", "10.0.0.1"]
    );
    for bad in ["a.b:", "[::1]:80", "::1", "a/b", "a..", ".a", "*.a", "u@a", "caf\u{e9}.example"] {
        assert!(hosts(bad).is_err(), "{bad}");
    }
    let many = |n: usize| vec!["a"; n].join(",");
    assert!(hosts(&many(1000)).is_ok() && hosts(&many(1001)).is_err());
    assert!(hosts(&"a".repeat(253)).is_ok() && hosts(&"a".repeat(254)).is_err());
}

#[test]
fn proxies_are_addresses_or_networks_up_to_a_limit() {
    let proxies =
        |text: &str| load("", &[("TIDINGS__SERVER__TRUSTED_PROXIES", text)], None).map(|config| config.server);
    let server = proxies("192.0.2.1, 10.0.0.0/8, 2001:db8::/32, ::ffff:192.0.2.9").unwrap();
    for (ip, is_trusted) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("192.0.2.2", false),
        ("192.0.2.9", true),
        ("10.255.0.1", true),
        ("11.0.0.1", false),
        ("2001:db8:ffff::1", true),
        ("2001:db9::1", false),
        ("::1", false),
    ] {
        assert_eq!(server.trusts(ip.parse().unwrap()), is_trusted, "{ip}");
    }
    assert!(!proxies("").unwrap().trusts("127.0.0.1".parse().unwrap()), "by default no proxy is trusted");
    assert!(proxies("0.0.0.0/0, ::/0").is_ok());
    let many = |n: usize| vec!["::1"; n].join(",");
    assert!(proxies(&many(1000)).is_ok() && proxies(&many(1001)).is_err());
}
