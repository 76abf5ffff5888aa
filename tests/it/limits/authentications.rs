//! How often a client may send a credential that is refused.

use serde_json::{Value, json};
use tidings::config::{Anonymous, Config};

use super::rates::{FRONTS, rate_limited, statuses};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{TestServer, until},
};

const OWN: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
const LIMIT: &str = "failed_authentications_per_second_per_ip";
const PUBLISH: &str = "/publish?topic=orders/1&content=x";

fn limited(config: &mut Config, per_second: usize) {
    with_keys(config);
    config.limits.failed_authentications_per_second_per_ip = per_second;
}

/// A valid token, another one for each `subject`.
fn valid(subject: &str) -> String {
    let tidings = json!({"publish": ["**"], "subscribe": ["**"]});
    format!("Bearer {}", token(subject, &tidings, seconds_from_now(600)))
}

fn expired(subject: &str) -> String {
    format!("Bearer {}", token(subject, &json!({"publish": ["**"]}), seconds_from_now(0) - 6))
}

fn request(server: &TestServer, front: &[(&str, &str)], credential: &str) -> Vec<u8> {
    server.request("GET", PUBLISH, &[front, &[("authorization", credential)]].concat(), b"")
}

#[tokio::test]
async fn a_client_whose_credentials_fail_is_refused_before_they_are_verified() {
    // Goal: as many failures as the limit are 401, one more is 429. Then a valid token that is not known is 429, too; one
    // that was verified before, an API key, another address, and a caller without a credential are not affected.
    for front in FRONTS {
        let server = TestServer::with(|config| {
            limited(config, 3);
            config.auth.anonymous = Anonymous::All;
        });
        let ask = |credential: &str| request(&server, front, credential);
        let known = valid("known");
        assert_eq!(statuses(&server, OWN, &[ask(&known)]).await, [200]);
        let anonymous = server.request("GET", PUBLISH, front, b"");
        let (forged, new) = (format!("{known}x"), valid("new"));
        let said = statuses(
            &server,
            OWN,
            &[
                ask("Bearer x"),
                ask(&forged),
                ask(&expired("ann")),
                ask(&forged),
                ask(&new),
                ask(&known),
                ask("Bearer abc"),
                anonymous,
            ],
        )
        .await;
        assert_eq!(said, [401, 401, 401, 429, 429, 200, 200, 200], "{front:?}");
        assert_eq!(statuses(&server, OTHER, &[ask(&new), ask("Bearer x")]).await, [200, 401]);
        until("a third of a second to pass", async || statuses(&server, OWN, &[ask(&valid("later"))]).await == [200])
            .await;
    }
}

#[tokio::test]
async fn valid_credentials_use_nothing_of_the_rate() {
    // Goal: with one failure a second allowed, any number of new valid tokens is accepted at once; and the control: with 0
    // and by default, many failures are refused by their own reason.
    for front in FRONTS {
        let server = TestServer::with(|config| limited(config, 1));
        let requests: Vec<Vec<u8>> = (0..30).map(|n| request(&server, front, &valid(&n.to_string()))).collect();
        assert_eq!(statuses(&server, OWN, &requests).await, [200; 30]);
        let bad = request(&server, front, "Bearer x");
        assert_eq!(statuses(&server, OWN, &[bad.clone(), bad.clone()]).await, [401, 429]);
        for configure in [|config: &mut Config| limited(config, 0), with_keys] {
            let server = TestServer::with(configure);
            assert_eq!(statuses(&server, OWN, &vec![bad.clone(); 100]).await, [401; 100]);
        }
    }
}

#[tokio::test]
async fn the_refusal_says_when_to_come_back() {
    // Goal: the headers are those of the other rates, wherever the credential is; an EventSource is told in a stream, and
    // keeps its cursor.
    for front in FRONTS {
        let server = TestServer::with(|config| {
            limited(config, 1);
            config.auth.query_token = true;
        });
        let path = "/subscribe?topic=a&access_token=x";
        until("a refusal", async || {
            server.ask("GET", path, front, b"").await;
            let answer = server.ask("GET", path, front, b"").await;
            if answer.status == 429 {
                rate_limited(&answer, LIMIT);
                let problem = answer.json();
                assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("your address has")));
            }
            answer.status == 429
        })
        .await;
        until("a refused stream", async || {
            server.ask("GET", path, front, b"").await;
            let cursor = "k3f9x2ab-17";
            let headers = [front, &[("accept", "text/event-stream"), ("last-event-id", cursor)]].concat();
            let mut stream = server.get(path, &headers).await;
            if stream.status != 200 {
                return false;
            }
            let blocks = stream.all().await;
            assert_eq!((blocks.len(), &*blocks[0].event, &*blocks[0].id), (1, "broker.refused", cursor));
            let told: Value = serde_json::from_str(&blocks[0].data).expect("JSON");
            assert_eq!(told["code"], "rate_limited", "{told}");
            assert!(stream.retry().is_some_and(|retry| (9600..=14400).contains(&retry)), "{told}");
            true
        })
        .await;
    }
}
