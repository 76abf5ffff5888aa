//! Client libraries as their users run them, through kills and restarts of the broker: each gives its application every
//! event once, in order and on time, and nothing that is no event.
//!
//! The loops that `docs/clients.md` prints are what runs here. A library whose language is missing is left out and says
//! so; `tests/run` installs all of them and makes leaving out a failure.

mod checker;
mod course;
pub mod printed;
mod programs;
mod recipes;

use std::fmt::Write as _;

use checker::Fault;
use course::{Course, Entrant};
use programs::Library;

use crate::harness::tools::left_out;

const CLIENTS: [Entrant; 7] = [
    (Library::Python("`requests`"), ""),
    (Library::Python("`sseclient-py`"), ""),
    (Library::Python("`httpx-sse`"), ""),
    (Library::NodeEventSource, ""),
    (Library::R3labs, ""),
    (Library::ReqwestEventSource, ""),
    (Library::Shell, ""),
];
/// What went wrong for each client, in words.
fn report(results: &[(Entrant, Vec<Fault>, String)]) -> String {
    let mut report = String::new();
    for ((library, query), faults, errors) in results.iter().filter(|(_, faults, _)| !faults.is_empty()) {
        let (n, some) = (faults.len(), &faults[..faults.len().min(8)]);
        let _ = write!(report, "\n{library:?} {query}: {n} faults, such as {some:?}\n    {errors}");
    }
    report
}

#[test]
fn each_client_has_every_event_once_on_time_and_no_empty_message() {
    // Killed before the first event, killed while events come, refused, ended cleanly; events come while the clients are
    // away.
    let mut missing = Vec::new();
    let mut course = Course::begin(&CLIENTS, &mut missing);
    course.kill();
    course.kill();
    course.refuse();
    course.end_cleanly();
    let results = course.finish();
    missing.iter().for_each(|missing| left_out(missing));
    let report = report(&results);
    assert!(report.is_empty(), "{report}");
}

#[test]
fn the_course_finds_what_a_client_does_with_bytes_that_do_not_suit_it() {
    // The control: ids without data, a stream without chunks, a library without its loop.
    let clients = [
        (Library::Python("`httpx-sse`"), "&marks=id"),
        (Library::NodeEventSource, "&marks=id"),
        (Library::ReqwestEventSource, "&marks=id"),
        (Library::Python10("`requests`"), ""),
        (Library::R3labsAlone, ""),
    ];
    let mut missing = Vec::new();
    let mut course = Course::begin(&clients, &mut missing);
    course.kill();
    let results = course.finish();
    missing.iter().for_each(|missing| left_out(missing));
    for ((library, _), faults, errors) in &results {
        let found = faults.iter().any(|fault| match library {
            Library::NodeEventSource | Library::ReqwestEventSource => matches!(fault, Fault::Missing(_)),
            Library::Python10(_) => matches!(fault, Fault::Late(..)),
            _ => matches!(fault, Fault::Empty),
        });
        assert!(found, "{library:?}: {faults:?}\n{errors}");
    }
}
