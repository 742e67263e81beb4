//! `GET /api/billing/usage/`: the sessions of an owner and what they come to, a page at a time; or,
//! to reconcile, all finalized sessions in the order in which they became readable.

use axum::extract::State;
use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound as _, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Viewer;
use super::envelope::{Envelope, Reply};
use super::error::ApiError;
use super::fields::{self, Fields, QueryFields};
use crate::finalize::HistoryData;
use crate::store::{Cursor, HistoryFilter};

const PAGE_SIZE: u32 = 50;
const LARGEST_PAGE: u32 = 200;
/// No number of a page is above it.
const LAST_PAGE: u32 = 1_000_000_000;

/// What is asked for.
struct Asked {
    filter: HistoryFilter,
    page_size: u32,
    part: Part,
    is_brief: bool,
}

enum Part {
    /// A page, the first being 1.
    Page(u32),
    /// What was finalized after this.
    After(Cursor),
}

/// Which part of all sessions an answer has. What makes no sense in a walk is null there.
#[derive(Serialize, ToSchema)]
pub(super) struct Place {
    page: Option<u32>,
    page_size: u32,
    total_pages: Option<u64>,
    next: Option<String>,
    previous: Option<String>,
    /// The `finalized_after` that goes on from here; pages leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Sessions and what they come to
///
/// A page, the newest first; or, to reconcile, finalized sessions in the order in which they became
/// readable.
#[utoipa::path(
    get, path = "/api/billing/usage/", tag = "Sessions", operation_id = "list_sessions",
    params(
        ("character_slug" = Option<String>, Query, description = "Only of this character",
            min_length = 1, max_length = 512),
        ("tenant_id" = Option<String>, Query, description = "Only of this tenant",
            min_length = 1, max_length = 512),
        ("start" = Option<String>, Query,
            description = "A date, or a time with its offset: `created_at` is then or later",
            example = "2026-05-28"),
        ("end" = Option<String>, Query,
            description = "A date, or a time with its offset: `created_at` is then or earlier",
            example = "2026-05-28T14:20:43Z"),
        ("page" = Option<u32>, Query, minimum = 1, maximum = 1_000_000_000),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("finalized_after" = Option<String>, Query,
            description = "Instead of pages: what became readable after this cursor, the \
                           `next_cursor` of an earlier answer or nothing"),
        ("brief" = Option<bool>, Query,
            description = "A page without totals and `transcript_text`, which are null then: quick, \
                           however many sessions there are"),
    ),
    responses((status = 200, description = "A page", body = Envelope<HistoryData<Place>>)),
)]
pub(super) async fn list(
    viewer: Viewer,
    State(state): State<ApiState>,
    QueryFields(query): QueryFields,
) -> Result<Reply<HistoryData<Place>>, ApiError> {
    let links = Links { public_url: &state.public_url, given: query.into_given() };
    let asked = read(&links.given, viewer)?;
    match asked.part {
        Part::Page(page) if asked.is_brief => show_brief_page(&state, &links, &asked, page).await,
        Part::Page(page) => show_page(&state, &links, &asked, page).await,
        Part::After(cursor) => walk(&state, &links, &asked, cursor).await,
    }
}

async fn show_page(
    state: &ApiState,
    links: &Links<'_>,
    Asked { filter, page_size, .. }: &Asked,
    page: u32,
) -> Result<Reply<HistoryData<Place>>, ApiError> {
    let (sessions, totals) = tokio::try_join!(
        state.store.history(filter, *page_size, offset(page, *page_size)),
        state.store.history_totals(filter)
    )?;
    let count = u64::try_from(totals.sessions).unwrap_or(0);
    let total_pages = count.div_ceil(u64::from(*page_size));
    let page_link = |page: u64| links.to("page", &page.to_string());
    // Beyond the last page the way back leads to it.
    let previous = u64::from(page - 1).min(total_pages);
    let next = u64::from(page) + 1;
    let place = Place {
        page: Some(page),
        page_size: *page_size,
        total_pages: Some(total_pages),
        next: (next <= total_pages).then(|| page_link(next)),
        previous: (previous > 0).then(|| page_link(previous)),
        next_cursor: None,
    };
    let data = HistoryData::new(Some(&totals), &sessions, place);
    Ok(Reply { message: "The sessions, the newest first.".into(), data })
}

async fn show_brief_page(
    state: &ApiState,
    links: &Links<'_>,
    Asked { filter, page_size, .. }: &Asked,
    page: u32,
) -> Result<Reply<HistoryData<Place>>, ApiError> {
    let sessions = state.store.history(filter, *page_size, offset(page, *page_size)).await?;
    let is_full = sessions.len() == *page_size as usize;
    let page_link = |page: u32| links.to("page", &page.to_string());
    let place = Place {
        page: Some(page),
        page_size: *page_size,
        total_pages: None,
        next: is_full.then(|| page_link(page + 1)),
        previous: (page > 1).then(|| page_link(page - 1)),
        next_cursor: None,
    };
    let data = HistoryData::brief(&sessions, place);
    Ok(Reply { message: "The sessions, the newest first.".into(), data })
}

fn offset(page: u32, page_size: u32) -> u64 {
    u64::from(page - 1) * u64::from(page_size)
}

async fn walk(
    state: &ApiState,
    links: &Links<'_>,
    Asked { filter, page_size, .. }: &Asked,
    cursor: Cursor,
) -> Result<Reply<HistoryData<Place>>, ApiError> {
    let walked = state.store.finalized_after(filter, cursor, *page_size).await?;
    let next_cursor = walked.cursor.to_text();
    let is_full = walked.sessions.len() == *page_size as usize;
    let place = Place {
        page: None,
        page_size: *page_size,
        total_pages: None,
        next: is_full.then(|| links.to("finalized_after", &next_cursor)),
        previous: None,
        next_cursor: Some(next_cursor),
    };
    let data = HistoryData::new(None, &walked.sessions, place);
    let message = "Finalized sessions, in the order in which they became readable.".into();
    Ok(Reply { message, data })
}

fn read(given: &Map<String, Value>, viewer: Viewer) -> Result<Asked, ApiError> {
    let mut query = Fields::new(given.clone());
    let filter = HistoryFilter {
        owner: (!viewer.is_staff).then_some(viewer.user),
        tenant_id: query.given("tenant_id", fields::name),
        character_slug: query.given("character_slug", fields::name),
        start: query.given("start", first_moment),
        end: query.given("end", last_moment),
    };
    if filter.start.zip(filter.end).is_some_and(|(start, end)| end < start) {
        query.wrong("end", "Expected a time that is not before `start`.");
    }
    let page_size = query.given("page_size", fields::within(1..=LARGEST_PAGE));
    let page = query.given("page", fields::within(1..=LAST_PAGE));
    let cursor = query.given("finalized_after", cursor);
    if page.is_some() && cursor.is_some() {
        query.wrong("page", "With `finalized_after` there are no pages: follow `next_cursor`.");
    }
    let is_brief = query.given("brief", yes_or_no).unwrap_or(false);
    if is_brief && cursor.is_some() {
        query.wrong("brief", "Only pages are brief.");
    }
    query.end()?;
    let part = cursor.map_or(Part::Page(page.unwrap_or(1)), Part::After);
    Ok(Asked { filter, page_size: page_size.unwrap_or(PAGE_SIZE), part, is_brief })
}

/// Times count to the second, as `created_at` shows them.
fn first_moment(value: &Value) -> Result<DateTime<Utc>, String> {
    if let Some(date) = date(value) {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    time(value)
}

/// The end of the second, or of the day: it is meant to be included.
fn last_moment(value: &Value) -> Result<DateTime<Utc>, String> {
    let (start, length) = match date(value) {
        Some(date) => (date.and_time(NaiveTime::MIN).and_utc(), TimeDelta::days(1)),
        None => (time(value)?, TimeDelta::seconds(1)),
    };
    Ok(start + length - TimeDelta::microseconds(1))
}

/// A date as RFC 3339 writes it: four digits for the year, and no sign.
fn date(value: &Value) -> Option<NaiveDate> {
    let text = value.as_str().filter(|text| text.len() == 10 && !text.starts_with('+'))?;
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

fn time(value: &Value) -> Result<DateTime<Utc>, String> {
    let time = fields::time(value).map_err(|_| {
        "Expected a date such as 2026-05-28, or a time such as 2026-05-28T14:20:43Z; in a URL the \
         + of an offset is written %2B."
    })?;
    Ok(time.trunc_subsecs(0))
}

/// A query has texts alone.
fn yes_or_no(value: &Value) -> Result<bool, String> {
    fields::text(value)?.parse().map_err(|_| "Expected true or false.".to_owned())
}

fn cursor(value: &Value) -> Result<Cursor, String> {
    Cursor::parse(fields::text(value)?)
        .ok_or_else(|| "Expected the `next_cursor` of an earlier answer, or nothing.".to_owned())
}

/// Makes URLs that ask for the same but one thing.
struct Links<'a> {
    public_url: &'a str,
    given: Map<String, Value>,
}

impl Links<'_> {
    fn to(&self, name: &str, value: &str) -> String {
        let mut query = Serializer::new(String::new());
        for (kept, text) in self.given.iter().filter(|(kept, _)| *kept != name) {
            query.append_pair(kept, text.as_str().unwrap_or_default());
        }
        let query = query.append_pair(name, value).finish();
        format!("{}/api/billing/usage/?{query}", self.public_url.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_date_is_a_whole_day_and_a_time_a_whole_second() {
        let text = |time: Result<DateTime<Utc>, String>| time.unwrap().to_rfc3339();
        let day = json!("2026-05-28");
        assert_eq!(text(first_moment(&day)), "2026-05-28T00:00:00+00:00");
        assert_eq!(text(last_moment(&day)), "2026-05-28T23:59:59.999999+00:00");
        let time = json!("2026-05-28T14:20:43.7+02:00");
        assert_eq!(text(first_moment(&time)), "2026-05-28T12:20:43+00:00");
        assert_eq!(text(last_moment(&time)), "2026-05-28T12:20:43.999999+00:00");
        for text in ["", "2026-5-28", "2026-02-30", "2026-05-28T14:20:43", "+026-05-28", "28.05.26"]
        {
            assert!(first_moment(&json!(text)).is_err(), "{text}");
            assert!(last_moment(&json!(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_day_there_is_has_an_end() {
        assert!(last_moment(&json!("9999-12-31")).is_ok());
        assert!(last_moment(&json!("9999-12-31T23:59:59-23:59")).is_ok());
    }
}
