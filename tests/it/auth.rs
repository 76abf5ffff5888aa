//! Who may do what: credentials through both readers of requests, and what they give.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tidings::config::{Algorithm, Anonymous, ApiKeyConfig, Config, KeyConfig, Origins};

use crate::{
    cli::run,
    harness::{Answer, DEADLINE, FOR_THE_FALLBACK, Process, Stream, TestServer, blocking::Directory, process::program},
};

pub const SECRET: &str = "a secret of thirty-two bytes....";
/// The API key `abc`, as FIPS 180-2 has its digest.
const API_KEY_DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const INVALID: &str = "Bearer realm=\"tidings\", error=\"invalid_token\"";

/// Writes a configuration with a key of each id, whose secret is [`SECRET`] and the id.
pub fn write_keys(file: &Path, ids: &[&str]) {
    let key = |id: &&str| format!("[[auth.keys]]\nid = \"{id}\"\nalgorithm = \"HS256\"\nsecret = \"{SECRET}{id}\"\n");
    let keys: Vec<String> = ids.iter().map(key).collect();
    std::fs::write(file, format!("[auth]\nanonymous = \"none\"\n{}", keys.concat())).expect("a file");
}

pub fn with_keys(config: &mut Config) {
    config.auth.anonymous = Anonymous::None;
    config.auth.keys = vec![KeyConfig {
        id: "k".to_owned(),
        algorithm: Algorithm::HS256,
        secret: Some(SECRET.into()),
        secret_file: None,
        public_key_file: None,
        jwks_file: None,
        issuer: None,
        audience: None,
    }];
    let api_key = json!({"name": "service", "sha256": API_KEY_DIGEST, "publish": ["orders/**"]});
    config.auth.api_keys = vec![serde_json::from_value::<ApiKeyConfig>(api_key).expect("an API key")];
}

pub fn seconds_from_now(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + seconds
}

/// A token with these claims.
pub fn sign(kid: Option<&str>, secret: &str, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
    encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()).expect("a key")).expect("signed")
}

/// A token of `subject` for a server [`with_keys`].
pub fn token(subject: &str, tidings: &Value, exp: u64) -> String {
    sign(None, SECRET, &json!({"sub": subject, "exp": exp, "tidings": tidings}))
}

fn bearer(tidings: &Value) -> String {
    format!("Bearer {}", token("ann", tidings, seconds_from_now(60)))
}

/// The exit code and the messages of the program.
async fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
    let (code, _, said) = run(program().args(arguments).envs(environment.iter().copied())).await;
    (code, said)
}

/// The answers of both readers of requests.
async fn ask_both(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> [Answer; 2] {
    let through_the_fallback = [headers, &[FOR_THE_FALLBACK]].concat();
    [server.ask(method, path, headers, b"").await, server.ask(method, path, &through_the_fallback, b"").await]
}

#[tokio::test]
async fn a_token_gives_exactly_its_rights_on_every_route() {
    // Goal: each route needs its right to the very topic: without a token 401, without the right 403 that names both.
    let server = TestServer::with(with_keys);
    let all = bearer(&json!({"publish": ["a"], "subscribe": ["a"], "manage": ["a"]}));
    for (method, path, right) in [
        ("POST", "/publish?topic=TOPIC&content=x", "publish"),
        ("GET", "/publish?topic=TOPIC&content=x", "publish"),
        ("HEAD", "/subscribe?topic=TOPIC", "subscribe"),
        ("GET", "/topics/TOPIC", "manage"),
        ("DELETE", "/topics/TOPIC", "manage"),
    ] {
        let own = path.replace("TOPIC", "a");
        for answer in ask_both(&server, method, &own, &[("authorization", &all)]).await {
            assert!(matches!(answer.status, 200 | 204), "{answer:?}");
            server.ask("POST", "/publish?topic=a&content=again", &[("authorization", &all)], b"").await.ok();
        }
        for answer in ask_both(&server, method, &own, &[]).await {
            assert_eq!(answer.status, 401, "{answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"tidings\""));
        }
        let other = path.replace("TOPIC", "b");
        for answer in ask_both(&server, method, &other, &[("authorization", &all)]).await {
            assert_eq!(answer.status, 403, "{answer:?}");
            if method != "HEAD" {
                let problem = answer.problem(403, "forbidden");
                assert_eq!((&problem["topic"], &problem["right"]), (&json!("b"), &json!(right)));
            }
        }
        let mut rights = json!({"publish": ["a"], "subscribe": ["a"], "manage": ["a"]});
        rights[right] = json!([]);
        for answer in ask_both(&server, method, &own, &[("authorization", &bearer(&rights))]).await {
            assert_eq!(answer.status, 403, "{right}: {answer:?}");
        }
    }
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(server.ask("GET", path, &[], b"").await.status, 200, "{path} needs no token");
    }
}

#[tokio::test]
async fn one_topic_without_the_right_refuses_the_whole_request() {
    let server = TestServer::with(with_keys);
    let some = bearer(&json!({"publish": ["a"], "subscribe": ["a"], "manage": ["**"]}));
    let headers = [("authorization", some.as_str())];
    for answer in ask_both(&server, "POST", "/publish?topic=a&topic=b&content=x", &headers).await {
        assert_eq!(answer.problem(403, "forbidden")["topic"], "b");
    }
    for answer in ask_both(&server, "GET", "/subscribe?topic=a&topic=b", &headers).await {
        assert_eq!(answer.problem(403, "forbidden")["topic"], "b");
    }
    server.ask("GET", "/topics/a", &headers, b"").await.problem(404, "topic_unknown");
}

#[tokio::test]
async fn a_credential_that_is_not_valid_is_401_also_where_none_is_needed() {
    // Goal: a client notices that its token is wrong, wherever it sends it.
    for server in [TestServer::with(with_keys), TestServer::start()] {
        let expired = format!("Bearer {}", token("ann", &json!({"publish": ["**"]}), seconds_from_now(0) - 6));
        for credential in ["Bearer x", "Bearer", "Bearer ", "Basic YTpi", "bearer a.b.c", expired.as_str()] {
            for answer in
                ask_both(&server, "POST", "/publish?topic=a&content=x", &[("authorization", credential)]).await
            {
                let problem = answer.problem(401, "unauthorized");
                assert_eq!(answer.header("www-authenticate"), Some(INVALID), "{credential}");
                let secret = credential.split(' ').nth(1).unwrap_or_default();
                assert!(secret.len() < 6 || !problem.to_string().contains(secret), "{problem}");
            }
        }
        let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
        for answer in ask_both(&server, "POST", "/publish?topic=a&content=x", &twice).await {
            answer.problem(400, "repeated");
        }
    }
}

#[tokio::test]
async fn an_api_key_is_a_bearer_like_any_other() {
    let server = TestServer::with(with_keys);
    for answer in
        ask_both(&server, "POST", "/publish?topic=orders/1&content=x", &[("authorization", "Bearer abc")]).await
    {
        answer.ok();
    }
    for answer in ask_both(&server, "POST", "/publish?topic=news&content=x", &[("authorization", "bearer abc")]).await {
        answer.problem(403, "forbidden");
    }
    for wrong in ["Bearer abd", &format!("Bearer {API_KEY_DIGEST}")] {
        for answer in ask_both(&server, "POST", "/publish?topic=orders/1&content=x", &[("authorization", wrong)]).await
        {
            answer.problem(401, "unauthorized");
        }
    }
}

#[tokio::test]
async fn a_token_in_the_query_or_a_cookie_counts_only_when_configured() {
    let token = token("ann", &json!({"publish": ["a"]}), seconds_from_now(60));
    let path = format!("/publish?topic=a&content=x&access_token={token}");
    let cookie = format!("theme=dark; session={token}");
    let from_own_page = [("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")];
    let closed = TestServer::with(with_keys);
    let open = TestServer::with(|config| {
        with_keys(config);
        config.auth.query_token = true;
        "session".clone_into(&mut config.auth.cookie);
    });
    for answer in ask_both(&closed, "POST", &path, &[]).await {
        answer.problem(401, "unauthorized");
    }
    for answer in ask_both(&closed, "POST", "/publish?topic=a&content=x", &from_own_page).await {
        answer.problem(401, "unauthorized");
    }
    for answer in ask_both(&open, "POST", &path, &[]).await {
        answer.ok();
    }
    for answer in ask_both(&open, "POST", "/publish?topic=a&content=x", &from_own_page).await {
        answer.ok();
    }
    // A browser sends the cookie for pages of other sites, too.
    for headers in [vec![from_own_page[0]], vec![from_own_page[0], ("sec-fetch-site", "cross-site")]] {
        for answer in ask_both(&open, "POST", "/publish?topic=a&content=x", &headers).await {
            answer.problem(403, "cross_site");
        }
    }
    let wrong_name = [("cookie", format!("xsession={token}")), ("sec-fetch-site", "same-origin".to_owned())];
    let wrong_name = wrong_name.each_ref().map(|(name, value)| (*name, value.as_str()));
    for answer in ask_both(&open, "POST", "/publish?topic=a&content=x", &wrong_name).await {
        answer.problem(401, "unauthorized");
    }
    // The header comes first: a browser cannot help sending the cookie.
    let both = [from_own_page[0], from_own_page[1], ("authorization", "Bearer x")];
    for answer in ask_both(&open, "POST", "/publish?topic=a&content=x", &both).await {
        answer.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_cookie_does_not_count_for_pages_that_nobody_has_listed() {
    // Goal: `cors.origins = ["*"]` lets every page publish with a token that it has itself, and none with the cookie of its
    // visitor. A listed origin may.
    let token = token("ann", &json!({"publish": ["a"]}), seconds_from_now(60));
    let (cookie, bearer) = (format!("session={token}"), format!("Bearer {token}"));
    let page = [("origin", "http://page.example"), ("sec-fetch-site", "cross-site")];
    let [with_cookie, with_token] =
        [("cookie", cookie.as_str()), ("authorization", &bearer)].map(|c| [page[0], page[1], c]);
    for (origins, by_cookie) in
        [(Origins::Any, Err("cross_site")), (Origins::Only(vec!["http://page.example".to_owned()]), Ok(()))]
    {
        let server = TestServer::with(|config| {
            with_keys(config);
            "session".clone_into(&mut config.auth.cookie);
            config.cors.origins = origins;
        });
        for answer in ask_both(&server, "POST", "/publish?topic=a&content=x", &with_token).await {
            answer.ok();
        }
        for answer in ask_both(&server, "POST", "/publish?topic=a&content=x", &with_cookie).await {
            match by_cookie {
                Ok(()) => drop(answer.ok()),
                Err(code) => drop(answer.problem(403, code)),
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_on_this_machine_does_not_make_its_clients_local() {
    // Goal: `loopback` allows everything here, and nothing to a request with a header of a proxy.
    let server = TestServer::start();
    let path = "/publish?topic=a&content=x";
    for answer in ask_both(&server, "POST", path, &[]).await {
        answer.ok();
    }
    for header in [
        "forwarded",
        "x-forwarded-for",
        "X-Forwarded-Host",
        "x-forwarded-proto",
        "x-real-ip",
        "via",
        "x-forwarded-anything",
        "X-FORWARDED",
        "cf-connecting-ip",
        "True-Client-IP",
    ] {
        for answer in ask_both(&server, "POST", path, &[(header, "for=192.0.2.1")]).await {
            let problem = answer.problem(401, "unauthorized");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("auth.anonymous")), "{problem}");
        }
        assert_eq!(server.ask("GET", "/healthz", &[(header, "x")], b"").await.status, 200);
    }
}

#[tokio::test]
async fn anonymous_callers_may_do_what_is_configured() {
    for (anonymous, expected) in [
        (Anonymous::None, [401, 401, 401]),
        (Anonymous::Subscribe, [401, 200, 401]),
        (Anonymous::All, [200, 200, 401]),
        (Anonymous::Loopback, [200, 200, 200]),
    ] {
        let server = TestServer::with(|config| config.auth.anonymous = anonymous);
        let requests = [("POST", "/publish?topic=a&content=x"), ("HEAD", "/subscribe?topic=a"), ("GET", "/topics/a")];
        for ((method, path), expected) in requests.into_iter().zip(expected) {
            for answer in ask_both(&server, method, path, &[]).await {
                assert_eq!(answer.status, expected, "{anonymous:?} {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn beyond_loopback_the_broker_starts_only_with_a_decision() {
    let everywhere = |config: &mut Config| config.server.host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let server = TestServer::with(|config| {
        everywhere(config);
        config.auth.anonymous = Anonymous::Subscribe;
    });
    server.ask("POST", "/publish?topic=a&content=x", &[], b"").await.problem(401, "unauthorized");
    for arguments in [vec!["--listen", "0.0.0.0:0"], vec!["--listen", "[::]:0", "--check"]] {
        let (code, said) = run_with(&arguments, &[]).await;
        assert_eq!(code, 78, "{said}");
        assert!(said.contains("auth.anonymous") && said.contains("auth.keys"), "{said}");
    }
    let decided = [("TIDINGS__AUTH__ANONYMOUS", "none")];
    let (code, said) = run_with(&["--listen", "0.0.0.0:0", "--check"], &decided).await;
    assert_eq!(code, 0, "the control: {said}");
    let short = [("TIDINGS__AUTH__KEYS", "[{ id = \"k\", algorithm = \"HS256\", secret = \"too short\" }]")];
    let (code, said) = run_with(&["--check"], &short).await;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("needs at least 32") && !said.contains("too short"), "{said}");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    // Goal: no event is sent to a stream after its token has expired. The leeway is the 5 s that the test waits for.
    let server = TestServer::with(with_keys);
    let short = format!("Bearer {}", token("ann", &json!({"subscribe": ["a"]}), seconds_from_now(0) - 4));
    let mut stream =
        server.get("/subscribe?topic=a", &[("accept", "text/event-stream"), ("authorization", &short)]).await;
    assert_eq!(stream.status, 200);
    let rest = tokio::time::timeout(Duration::from_secs(10), stream.rest()).await.expect("it ends soon");
    assert!(rest.contains("retry:"), "{rest}");
}

#[tokio::test]
async fn tokens_are_made_and_shown_by_the_program() {
    // Goal: nobody needs a web site for a token: what `token new` makes gives the rights that were asked for.
    let key = format!("[{{ id = \"k\", algorithm = \"HS256\", secret = \"{SECRET}\", audience = \"a\" }}]");
    let settings = [("TIDINGS__AUTH__KEYS", key.as_str())];
    let ask = async |arguments: &[&str]| run(program().arg("token").args(arguments).envs(settings)).await;
    let (code, token, said) = ask(&["new", "--subject", "ann", "--publish", "users/{sub}", "--expires-in", "1m"]).await;
    assert_eq!(code, 0, "{said}");
    let token = token.trim();
    let server = TestServer::with(|config| {
        with_keys(config);
        config.auth.keys[0].audience = Some("a".to_owned());
    });
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    server.ask("POST", "/publish?topic=users/ann&content=x", &headers, b"").await.ok();
    server.ask("POST", "/publish?topic=users/bob&content=x", &headers, b"").await.problem(403, "forbidden");
    let (code, shown, said) = ask(&["show", token]).await;
    assert_eq!(code, 0, "{said}");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["claims"]["sub"], &shown["header"]["kid"]), (&json!("ann"), &json!("k")));
    assert!(said.contains("it is valid") && !said.contains(SECRET), "{said}");
    for (arguments, expected) in [
        (vec!["show", "x"], "this is not a token"),
        (vec!["show", &format!("{token}x")], "no key of this server has signed it"),
        (vec!["new", "--key", "other"], "there is no such key"),
        (vec!["new", "--publish", "a*"], "stands for a whole segment"),
        (vec!["new", "--publish", "{sub}"], "needs a subject"),
    ] {
        let (code, _, said) = ask(&arguments).await;
        assert!(code != 0 && said.contains(expected), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_reload_takes_new_keys_and_ends_the_streams_of_removed_ones() {
    // Goal: after SIGHUP, a removed key gives nothing any more, its stream has ended and was told why, and the stream of a
    // key that stays goes on.
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).expect("a directory");
    let file = directory.0.join("tidings.toml");
    let bearer = |id: &str| {
        let claims = json!({"exp": seconds_from_now(600), "tidings": {"subscribe": ["a"], "publish": ["a"]}});
        format!("Bearer {}", sign(Some(id), &format!("{SECRET}{id}"), &claims))
    };
    write_keys(&file, &["old", "new"]);
    let mut command = program();
    command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0"]);
    let server = Process::spawn(&mut command).await;
    let (old, new) = (bearer("old"), bearer("new"));
    let open = async |token: &str| {
        Stream::open(server.address, "/subscribe?topic=a", &[("accept", "text/event-stream"), ("authorization", token)])
            .await
    };
    let (mut ends, mut goes_on) = (open(&old).await, open(&new).await);
    assert_eq!((ends.status, goes_on.status), (200, 200));
    write_keys(&file, &["new", "third"]);
    server.signal("HUP").await;
    let rest = tokio::time::timeout(DEADLINE, ends.rest()).await.expect("it ends");
    assert!(rest.contains("event: broker.unauthorized"), "{rest}");
    assert_eq!(open(&old).await.status, 401);
    let answer =
        reqwest::Client::new().post(server.url("/publish?topic=a&content=x")).header("authorization", bearer("third"));
    assert_eq!(answer.send().await.expect("an answer").status(), 200);
    assert_eq!(goes_on.next().await.expect("an event").data, "x");
    // A file that cannot be used changes nothing.
    std::fs::write(&file, "[auth]\nanonymous = \"nobody\"").expect("a file");
    server.signal("HUP").await;
    assert_eq!(open(&new).await.status, 200);
}
