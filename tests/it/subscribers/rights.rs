//! Streams whose right ends, and those of a subject.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{LINES, ending::last_id, server};
use crate::{
    auth::{seconds_from_now, token, with_keys},
    harness::{FOR_THE_FALLBACK, Stream, TestServer, until},
};

const SSE: (&str, &str) = ("accept", "text/event-stream");

/// The credential of `subject`, who may do everything, until `exp`.
fn bearer(subject: &str, exp: u64) -> String {
    let rights = json!({"publish": ["**"], "subscribe": ["**"], "manage": ["**"]});
    format!("Bearer {}", token(subject, &rights, exp))
}

async fn publish(server: &TestServer, credential: &str, content: &str) -> String {
    let path = format!("/publish?topic=a&content={content}");
    let answer = server.ask("POST", &path, &[("authorization", credential)], b"").await.ok();
    answer["id"].as_str().expect("an id").to_owned()
}

/// Reads until the stream has `text`.
async fn until_has(stream: &mut Stream, text: &str) {
    until(text, async || String::from_utf8_lossy(&stream.body).contains(text) || !stream.read().await).await;
    assert!(String::from_utf8_lossy(&stream.body).contains(text), "the stream ended without {text}");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires_and_comes_back_with_another() {
    // Goal: within a second of `exp` and the leeway, in each format and through both readers of requests; a stream with
    // a token that lasts goes on.
    for workers in [1, 2] {
        let server = server(workers, with_keys);
        let lasting = bearer("ann", seconds_from_now(600));
        let mut other = server.get("/subscribe?topic=a", &[SSE, ("authorization", &lasting)]).await;
        // With the leeway of five seconds it is valid for two seconds more.
        let exp = seconds_from_now(0) - 3;
        let short = bearer("ann", exp);
        let mut streams = Vec::new();
        for accept in [SSE, LINES] {
            for more in [&[][..], &[FOR_THE_FALLBACK]] {
                let headers = [&[accept, ("authorization", short.as_str())], more].concat();
                let stream = server.get("/subscribe?topic=a", &headers).await;
                assert_eq!(stream.status, 200);
                streams.push((accept, stream));
            }
        }
        let seen = publish(&server, &lasting, "seen").await;
        for (_, stream) in &mut streams {
            until_has(stream, &seen).await;
        }
        for (_, stream) in &mut streams {
            let body = stream.rest().await;
            let late = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(exp + 5));
            let late = late.expect("not before the leeway is over");
            assert!(late < Duration::from_secs(1), "{late:?} after the right has ended");
            let notice = body.rsplit_once("broker.unauthorized").expect("the notice").1;
            assert!(notice.contains(r#""code":"unauthorized""#), "{body}");
        }
        let missed = publish(&server, &lasting, "missed").await;
        let other_ids: Vec<String> = other.take(2).await.into_iter().map(|block| block.id).collect();
        assert_eq!(other_ids, [seen.clone(), missed.clone()], "it goes on");
        for (accept, stream) in streams {
            let body = String::from_utf8_lossy(&stream.body).into_owned();
            assert!(!body.contains(&missed) && stream.chunks.is_some_and(|chunks| chunks.ended), "a clean end: {body}");
            let position = [accept, ("last-event-id", seen.as_str())];
            let expired = [&position[..], &[("authorization", short.as_str())]].concat();
            server.ask("GET", "/subscribe?topic=a", &expired, b"").await.problem(401, "unauthorized");
            let renewed = [&position[..], &[("authorization", lasting.as_str())]].concat();
            let mut back = server.get("/subscribe?topic=a", &renewed).await;
            until_has(&mut back, &missed).await;
            assert!(!String::from_utf8_lossy(&back.body).contains("broker.gap"));
        }
    }
}

#[tokio::test]
async fn a_subject_is_ended_on_all_workers_and_nobody_else_is() {
    // Goal: all streams of the subject end and stay away; those of others go on; only who may manage all may do that.
    for workers in [1, 3] {
        let server = server(workers, with_keys);
        let [ann, bob] = ["a/nn", "bob"].map(|subject| bearer(subject, seconds_from_now(600)));
        let (mut anns, mut bobs) = (Vec::new(), Vec::new());
        for n in 0..12 {
            let accept = if n % 3 == 0 { LINES } else { SSE };
            anns.push((accept, server.get("/subscribe?topic=a", &[accept, ("authorization", &ann)]).await));
            bobs.push(server.get("/subscribe?topic=a", &[SSE, ("authorization", &bob)]).await);
        }
        server.ask("DELETE", "/subjects/a%2Fnn", &[], b"").await.problem(401, "unauthorized");
        let begin = Instant::now();
        let answer = server.ask("DELETE", "/subjects/a%2Fnn", &[("authorization", &bob)], b"").await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
        for (accept, stream) in &mut anns {
            let cursor = last_id(stream).await;
            let headers = [*accept, ("authorization", ann.as_str()), ("last-event-id", cursor.as_str())];
            assert_eq!(server.ask("GET", "/subscribe?topic=a", &headers, b"").await.status, 204);
        }
        println!("{} streams of a subject ended after {:?}", anns.len(), begin.elapsed());
        let id = publish(&server, &bob, "on").await;
        for stream in &mut bobs {
            assert_eq!(stream.take(1).await[0].id, id);
        }
        let fresh = server.get("/subscribe?topic=a", &[SSE, ("authorization", &ann)]).await;
        assert_eq!(fresh.status, 200, "without the id of its end a client is not recognized");
    }
}
