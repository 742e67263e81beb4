//! `finalizer check`: can store, broker and recordings be reached and used?

use clap::Args;
use serde_json::{Value, json};

use crate::config::{BrokerSettings, PlaceSettings, StoreSettings};
use crate::intake::amqp::{self, AmqpSettings, HOLD_AT_MOST};
use crate::recordings::PlaceError;

use super::output::OutputSettings;
use super::{Stop, open, output};

/// `finalizer check`
#[derive(Args)]
pub(super) struct CheckCommand {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    broker: BrokerSettings,
    #[command(flatten)]
    places: PlaceSettings,
    #[command(flatten)]
    output: OutputSettings,
}

/// What was found of one dependency.
struct Finding {
    part: &'static str,
    place: String,
    trouble: Option<String>,
}

impl CheckCommand {
    pub(super) async fn perform(self) -> Result<(), Stop> {
        let mut findings = vec![self.check_store().await?];
        findings.extend(self.check_broker().await?);
        findings.extend(self.check_places().await?);
        self.print(&findings)?;
        let count = findings.iter().filter(|finding| finding.trouble.is_some()).count();
        if count == 0 {
            return Ok(());
        }
        Err(Stop::Absent(format!("{count} of {} cannot be used", findings.len())))
    }

    async fn check_store(&self) -> Result<Finding, Stop> {
        let answer = match open::store_to_read(&self.store).await {
            Ok(store) => store.now().await.map(|_| ()).map_err(|error| error.to_string()),
            Err(Stop::Absent(sentence)) => Err(sentence),
            Err(stop) => return Err(stop),
        };
        Ok(Finding { part: "store", place: self.store.shown(), trouble: answer.err() })
    }

    async fn check_broker(&self) -> Result<Option<Finding>, Stop> {
        self.broker.check()?;
        let Some(url) = self.broker.url() else { return Ok(None) };
        let settings = AmqpSettings {
            url: url.to_owned(),
            prefetch: 1,
            is_declaring: !self.broker.no_declare,
            hold_at_most: HOLD_AT_MOST,
        };
        let answer = amqp::check(&settings).await;
        let trouble = answer.err().map(|error| error.to_string());
        Ok(Some(Finding { part: "broker", place: self.broker.shown(), trouble }))
    }

    async fn check_places(&self) -> Result<Vec<Finding>, Stop> {
        let places = open::places(&self.places)?;
        let answers = places.check().await.into_iter();
        let findings = answers.map(|(place, answer)| {
            let trouble = answer.err().map(|error| match error {
                PlaceError::Unavailable { reason, .. } => reason,
                PlaceError::Outside(_) => error.to_string(),
            });
            Finding { part: "recordings", place, trouble }
        });
        Ok(findings.collect())
    }

    fn print(&self, findings: &[Finding]) -> Result<(), Stop> {
        if self.output.json {
            let shown = findings.iter().map(|Finding { part, place, trouble }| {
                json!({ "part": part, "place": place, "ok": trouble.is_none(), "trouble": trouble })
            });
            return output::data(&shown.collect::<Vec<Value>>());
        }
        for Finding { part, place, trouble } in findings {
            let line = match trouble {
                None => format!("ok      {part}  {place}"),
                Some(trouble) => format!("failed  {part}  {place}: {trouble}"),
            };
            output::line(output::plain(&line))?;
        }
        Ok(())
    }
}
