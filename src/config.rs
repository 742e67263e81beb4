//! Every setting: its flag, its environment variable, its default, and what makes it wrong.
//!
//! A command flattens the groups it needs. `clap` reads single values; what needs more than one
//! value, or holds a secret that must not be repeated on a terminal, is judged by the group's
//! `check`. A setting that makes no sense stops the start with one sentence.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use url::Url;

/// Where sessions are kept unless a setting says otherwise.
pub const DEFAULT_DATABASE_URL: &str = "sqlite://finalizer-data/finalizer.db";

/// Where recordings lie unless a setting says otherwise.
pub const DEFAULT_RECORDINGS: &str = "finalizer-data/recordings";

/// The largest event that `--max-event-bytes` can allow: the largest HTTP body that is read.
pub const LARGEST_EVENT_BYTES: usize = 32 * 1024 * 1024;

/// S3 signs a URL for at most so long.
const LONGEST_PRESIGN: Duration = Duration::from_hours(7 * 24);

/// A setting that makes no sense, in one sentence that names the setting. Never holds a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

impl SettingError {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// What a `finalizer run` process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Takes events from the broker.
    Consume,
    /// Sends webhooks.
    Deliver,
    /// Answers HTTP: sessions to customers, events from voice workers.
    Api,
}

/// The database.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct StoreSettings {
    /// Where sessions are kept: `sqlite://FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(long, env = "FINALIZER_DATABASE_URL", value_name = "URL")]
    #[arg(default_value = DEFAULT_DATABASE_URL, hide_env_values = true)]
    pub database_url: String,
}

impl StoreSettings {
    /// Judges the URL.
    pub fn check(&self) -> Result<(), SettingError> {
        let url = self.database_url.as_str();
        if let Some(path) = sqlite_path(url) {
            return if path.is_empty() || path.contains(['?', '#']) || path.contains(":memory:") {
                Err(SettingError::new(
                    "--database-url must name a file and nothing else, such as \
                     sqlite://finalizer-data/finalizer.db",
                ))
            } else {
                Ok(())
            };
        }
        let is_postgres = Url::parse(url).is_ok_and(|url| {
            matches!(url.scheme(), "postgres" | "postgresql")
                && (url.has_host() || url.query().is_some_and(|query| query.contains("host=")))
        });
        if is_postgres {
            return Ok(());
        }
        Err(SettingError::new(
            "--database-url must be sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE",
        ))
    }

    /// The file, if this is SQLite.
    pub fn sqlite_file(&self) -> Option<&Path> {
        sqlite_path(&self.database_url).map(Path::new)
    }

    /// The database without its password, for people to read.
    pub fn shown(&self) -> String {
        without_password(&self.database_url)
    }
}

/// The broker, as far as connecting to it goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Broker")]
pub struct BrokerSettings {
    /// RabbitMQ, such as `amqp://USER:PASSWORD@HOST/VHOST`; without it no broker is used
    #[arg(long, env = "FINALIZER_AMQP_URL", value_name = "URL", hide_env_values = true)]
    pub amqp_url: Option<String>,
    /// Do not declare the exchange and the queues: use them as they are
    #[arg(long, env = "FINALIZER_NO_DECLARE", value_parser = BoolishValueParser::new())]
    pub no_declare: bool,
}

impl BrokerSettings {
    /// Judges the URL.
    pub fn check(&self) -> Result<(), SettingError> {
        let Some(url) = self.url() else { return Ok(()) };
        let is_amqp = Url::parse(url)
            .is_ok_and(|url| matches!(url.scheme(), "amqp" | "amqps") && url.has_host());
        if is_amqp {
            return Ok(());
        }
        Err(SettingError::new("--amqp-url must be amqp://USER:PASSWORD@HOST/VHOST or amqps://…"))
    }

    /// The broker's URL; an empty variable is no broker.
    pub fn url(&self) -> Option<&str> {
        present(self.amqp_url.as_ref())
    }

    /// The URL, or the sentence for a command that cannot do without.
    pub fn required_url(&self) -> Result<&str, SettingError> {
        self.check()?;
        self.url().ok_or_else(|| {
            SettingError::new("this command needs a broker: give --amqp-url or FINALIZER_AMQP_URL")
        })
    }

    /// The broker without its password, for people to read.
    pub fn shown(&self) -> String {
        self.url().map(without_password).unwrap_or_default()
    }
}

/// How large an event may be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Events")]
pub struct EventSettings {
    /// A larger event becomes a failure
    #[arg(long, env = "FINALIZER_MAX_EVENT_BYTES", value_name = "SIZE", default_value = "4MiB")]
    #[arg(value_parser = parse_size)]
    pub max_event_bytes: usize,
}

/// How events are waited for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Events")]
pub struct ConsumeSettings {
    /// How many unacknowledged events the broker may hand to one process. At worst a process
    /// holds this many events of the largest size in memory: 500 × 4 MiB = 2 GiB
    #[arg(long, env = "FINALIZER_PREFETCH", value_name = "COUNT", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: u16,
}

/// What things cost.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prices")]
pub struct PriceSettings {
    /// A price book (TOML) to use instead of the built-in one
    #[arg(long, env = "FINALIZER_PRICES", value_name = "FILE")]
    pub prices: Option<PathBuf>,
}

impl PriceSettings {
    /// The file, if it is not the built-in book; an empty variable names none.
    pub fn file(&self) -> Option<&Path> {
        self.prices.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Where recordings lie.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Recordings")]
pub struct PlaceSettings {
    /// A folder or `s3://BUCKET[/PREFIX]`; repeatable, the first is where recordings without a
    /// bucket of their own are looked for. Nothing outside these places is ever signed
    #[arg(long, env = "FINALIZER_RECORDINGS", value_name = "PLACE", value_delimiter = ',')]
    #[arg(default_value = DEFAULT_RECORDINGS)]
    pub recordings: Vec<String>,
}

/// How recordings are shown.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Recordings")]
pub struct LinkSettings {
    /// How long a signed URL of a recording works
    #[arg(long, env = "FINALIZER_PRESIGN_LIFETIME", value_name = "DURATION")]
    #[arg(default_value = "15m", value_parser = parse_presign_lifetime)]
    pub presign_lifetime: Duration,
}

/// How long the end of a call is waited for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Events")]
pub struct SilenceSettings {
    /// A call in progress of which nothing is heard for so long is finalized as `abandoned`, from
    /// its newest checkpoint; its real end still replaces that. 15 minutes after its room was
    /// closed it is, too
    #[arg(long, env = "FINALIZER_ABANDON_AFTER", value_name = "DURATION")]
    #[arg(default_value = "6h", value_parser = parse_duration)]
    pub abandon_after: Duration,
}

/// How long recordings are waited for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Recordings")]
pub struct SweepSettings {
    /// A recording of which nothing final is heard so long after its session was finalized has
    /// failed; one that comes later still counts
    #[arg(long, env = "FINALIZER_RECORDING_DEADLINE", value_name = "DURATION")]
    #[arg(default_value = "30m", value_parser = parse_duration)]
    pub recording_deadline: Duration,
}

/// How long what is not kept for ever is kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention")]
pub struct RetentionSettings {
    /// The bytes of an event that could not be finalized are kept for so long after it was last
    /// seen; what is told of it stays
    #[arg(long, env = "FINALIZER_FAILURE_RETENTION", value_name = "DURATION")]
    #[arg(default_value = "30d", value_parser = parse_duration)]
    pub failure_retention: Duration,
    /// Webhooks are forgotten so long after the last of their deliveries ended: the deliveries, their
    /// attempts, and what was sent; that they were told stays. They can no longer be sent again
    #[arg(long, env = "FINALIZER_DELIVERY_RETENTION", value_name = "DURATION")]
    #[arg(default_value = "90d", value_parser = parse_duration)]
    pub delivery_retention: Duration,
}

/// The installation's key, which seals endpoints' secrets in the database.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Secrets")]
pub struct SecretSettings {
    /// The key that seals endpoints' secrets in the database: 64 hexadecimal digits. With SQLite
    /// a key file is made beside the database; with Postgres a key must be given. To replace it,
    /// put the new one in front: `NEW,OLD`; what the old one sealed is sealed anew at the next start
    #[arg(long, env = "FINALIZER_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    pub secret_key: Option<String>,
    /// A file that holds the key
    #[arg(long, env = "FINALIZER_SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
}

/// Where the installation's key comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The setting itself.
    Text(String),
    /// A file that must be there.
    File(PathBuf),
    /// A file that is made when it is not there.
    Made(PathBuf),
}

impl SecretSettings {
    /// Decides where the key comes from.
    pub fn source(&self, store: &StoreSettings) -> Result<KeySource, SettingError> {
        let file = self.secret_key_file.as_ref().filter(|file| !file.as_os_str().is_empty());
        match (present(self.secret_key.as_ref()), file) {
            (Some(_), Some(_)) => {
                Err(SettingError::new("give --secret-key or --secret-key-file, not both"))
            }
            (Some(key), None) => Ok(KeySource::Text(key.to_owned())),
            (None, Some(file)) => Ok(KeySource::File(file.clone())),
            (None, None) => match store.sqlite_file() {
                Some(database) => Ok(KeySource::Made(database.with_file_name("secret.key"))),
                None => Err(SettingError::new(
                    "with Postgres the key that seals endpoints' secrets must be given: \
                     --secret-key or --secret-key-file",
                )),
            },
        }
    }
}

/// Where the API is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API")]
pub struct AddressSettings {
    /// The address to listen on
    #[arg(long, env = "FINALIZER_LISTEN", value_name = "ADDRESS:PORT")]
    #[arg(default_value = "127.0.0.1:8080", value_parser = parse_listen)]
    pub listen: SocketAddr,
    /// What customers put before `/api/…`; stands in webhooks and signed URLs [default:
    /// `http://` and the address to listen on]
    #[arg(long, env = "FINALIZER_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
}

impl AddressSettings {
    /// What stands before `/api/…`, without a slash at its end.
    pub fn public_url(&self) -> Result<String, SettingError> {
        let Some(url) = present(self.public_url.as_ref()) else {
            return Ok(format!("http://{}", self.listen));
        };
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                SettingError::new(format!(
                    "--public-url must be an http:// or https:// URL, not `{url}`"
                ))
            })?;
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(SettingError::new("--public-url must have neither a query nor a fragment"));
        }
        Ok(parsed.as_str().trim_end_matches('/').to_owned())
    }
}

/// Who may read the API.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "API")]
pub struct AccessSettings {
    /// Takes JWTs signed with this shared secret (HS256)
    #[arg(long, env = "FINALIZER_JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Takes JWTs signed by the owner of this public key (a PEM file)
    #[arg(long, env = "FINALIZER_JWT_PUBLIC_KEY", value_name = "FILE")]
    pub jwt_public_key: Option<PathBuf>,
    /// Takes JWTs signed with a key of the JWKS document at this https URL
    #[arg(long, env = "FINALIZER_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,
    /// An origin whose pages may read the API, such as `https://app.example.com`; repeatable
    #[arg(long, env = "FINALIZER_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
}

impl AccessSettings {
    /// The shared secret, if there is one.
    pub fn secret(&self) -> Option<&str> {
        present(self.jwt_secret.as_ref())
    }

    /// Where the issuer's keys are published, if they are.
    pub fn jwks_url(&self) -> Option<&str> {
        present(self.jwks_url.as_ref())
    }

    /// The public key's file, if there is one.
    pub fn public_key_file(&self) -> Option<&Path> {
        self.jwt_public_key.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Who signs the webhooks of a `LiveKit` server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "LiveKit")]
pub struct LivekitSettings {
    /// Takes the webhooks of a LiveKit server that are signed with this API key, at
    /// `/api/livekit/webhook/`; needs its secret
    #[arg(long, env = "LIVEKIT_API_KEY", value_name = "KEY")]
    pub livekit_api_key: Option<String>,
    /// The secret of that API key
    #[arg(long, env = "LIVEKIT_API_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub livekit_api_secret: Option<String>,
}

impl LivekitSettings {
    /// The key and its secret, if there are any.
    pub fn key(&self) -> Result<Option<(&str, &str)>, SettingError> {
        let secret = present(self.livekit_api_secret.as_ref());
        match (present(self.livekit_api_key.as_ref()), secret) {
            (None, None) => Ok(None),
            (Some(key), Some(secret)) => Ok(Some((key, secret))),
            _ => Err(SettingError::new(
                "--livekit-api-key and --livekit-api-secret go together: give both or neither",
            )),
        }
    }
}

/// Who collects spans.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceSettings {
    /// Exports spans of the traces that publishers sample to the collector at this URL (OTLP over HTTP),
    /// such as `http://localhost:4318`
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

impl TraceSettings {
    /// Where the collector is, if there is one.
    pub fn endpoint(&self) -> Option<&str> {
        present(self.otlp_endpoint.as_ref())
    }
}

/// Where webhooks may go.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookSettings {
    /// A network that webhooks may go to although it is not public, such as `10.0.0.0/8`;
    /// repeatable. Plain http is allowed inside
    #[arg(long, env = "FINALIZER_ALLOW_PRIVATE", value_name = "CIDR", value_delimiter = ',')]
    #[arg(value_parser = parse_network)]
    pub allow_private: Vec<IpNet>,
    /// Webhooks may go to any public address over plain http
    #[arg(long, env = "FINALIZER_ALLOW_HTTP", value_parser = BoolishValueParser::new())]
    pub allow_http: bool,
}

/// The value of an optional setting: an empty environment variable is as good as none.
fn present(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.trim().is_empty())
}

fn sqlite_path(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("sqlite:")?;
    Some(rest.strip_prefix("//").unwrap_or(rest))
}

fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let cut = parsed.set_password(None);
            cut.map_or_else(|()| parsed.scheme().to_owned(), |()| parsed.to_string())
        }
        Ok(_) | Err(_) => url.to_owned(),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 90s, 30m or 6h".to_owned())?;
    if duration.is_zero() {
        Err("a duration of zero makes no sense".to_owned())
    } else {
        Ok(duration)
    }
}

fn parse_presign_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        lifetime if lifetime <= LONGEST_PRESIGN => Ok(lifetime),
        _ => Err("S3 signs for at most 7 days".to_owned()),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(1024 * 1024),
        _ => None,
    };
    let bytes = factor.and_then(|factor: usize| digits.parse::<usize>().ok()?.checked_mul(factor));
    match bytes {
        Some(bytes @ 1024..=LARGEST_EVENT_BYTES) => Ok(bytes),
        Some(_) => Err("expected a size between 1KiB and 32MiB".to_owned()),
        None => Err("expected a size such as 4194304 or 4MiB".to_owned()),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port such as 127.0.0.1:8080".to_owned())
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)));
    network.ok_or_else(|| "expected a network such as 10.0.0.0/8".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Everything {
        #[command(flatten)]
        store: StoreSettings,
        #[command(flatten)]
        broker: BrokerSettings,
        #[command(flatten)]
        event: EventSettings,
        #[command(flatten)]
        consume: ConsumeSettings,
        #[command(flatten)]
        places: PlaceSettings,
        #[command(flatten)]
        links: LinkSettings,
        #[command(flatten)]
        secrets: SecretSettings,
        #[command(flatten)]
        address: AddressSettings,
        #[command(flatten)]
        access: AccessSettings,
        #[command(flatten)]
        webhooks: WebhookSettings,
        #[command(flatten)]
        sweep: SweepSettings,
        #[command(flatten)]
        silence: SilenceSettings,
        #[command(flatten)]
        livekit: LivekitSettings,
        #[arg(long, value_enum, value_delimiter = ',')]
        roles: Vec<Role>,
    }

    fn parsed(arguments: &[&str]) -> Result<Everything, String> {
        let arguments = ["finalizer"].iter().chain(arguments);
        Everything::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    /// What a start with these arguments is stopped by.
    fn sentence(arguments: &[&str]) -> String {
        let all = match parsed(arguments) {
            Ok(all) => all,
            Err(sentence) => return sentence,
        };
        let checks = [
            all.store.check(),
            all.broker.check(),
            all.secrets.source(&all.store).map(|_| ()),
            all.address.public_url().map(|_| ()),
            all.livekit.key().map(|_| ()),
        ];
        let wrong = checks.into_iter().find_map(Result::err);
        wrong.map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_defaults_are_those_of_an_embedded_start() {
        let all = parsed(&[]).unwrap();
        assert_eq!(all.store.sqlite_file(), Some(Path::new("finalizer-data/finalizer.db")));
        assert_eq!(all.broker.url(), None);
        assert_eq!(all.event.max_event_bytes, 4 * 1024 * 1024);
        assert_eq!(all.consume.prefetch, 500);
        assert_eq!(all.places.recordings, ["finalizer-data/recordings"]);
        assert_eq!(all.links.presign_lifetime, Duration::from_mins(15));
        assert_eq!(all.sweep.recording_deadline, Duration::from_mins(30));
        assert_eq!(all.silence.abandon_after, Duration::from_hours(6));
        assert_eq!(all.livekit.key(), Ok(None));
        assert_eq!(all.address.public_url().unwrap(), "http://127.0.0.1:8080");
        let key = all.secrets.source(&all.store).unwrap();
        assert!(key == KeySource::Made(PathBuf::from("finalizer-data/secret.key")));
        assert!(!all.webhooks.allow_http && all.webhooks.allow_private.is_empty());
    }

    #[test]
    fn a_setting_that_makes_no_sense_stops_the_start_with_a_sentence() {
        let postgres = "--database-url=postgres://finalizer:hunter2@db/finalizer";
        for (arguments, expected) in [
            (vec!["--database-url=mysql://db/x"], "--database-url must be sqlite://FILE or"),
            (vec!["--database-url=finalizer.db"], "--database-url must be sqlite://FILE or"),
            (vec!["--database-url=postgres://"], "--database-url must be sqlite://FILE or"),
            (vec!["--database-url=sqlite://"], "--database-url must name a file"),
            (vec!["--database-url=sqlite::memory:"], "--database-url must name a file"),
            (vec!["--database-url=sqlite://a.db?mode=ro"], "--database-url must name a file"),
            (vec![postgres], "must be given: --secret-key or --secret-key-file"),
            (vec!["--secret-key=aa", "--secret-key-file=key"], "not both"),
            (vec!["--amqp-url=http://rabbit"], "--amqp-url must be amqp://"),
            (vec!["--amqp-url=rabbit:5672"], "--amqp-url must be amqp://"),
            (vec!["--prefetch=0"], "0 is not in 1..=65535"),
            (vec!["--prefetch=70000"], "70000 is not in 1..=65535"),
            (vec!["--max-event-bytes=64MiB"], "between 1KiB and 32MiB"),
            (vec!["--max-event-bytes=4 apples"], "a size such as 4194304 or 4MiB"),
            (vec!["--presign-lifetime=0s"], "a duration of zero makes no sense"),
            (vec!["--presign-lifetime=soon"], "a duration such as 90s, 30m or 6h"),
            (vec!["--presign-lifetime=8d"], "at most 7 days"),
            (vec!["--recording-deadline=0s"], "a duration of zero makes no sense"),
            (vec!["--livekit-api-key=APIkey"], "give both or neither"),
            (vec!["--livekit-api-secret=hush", "--livekit-api-key="], "give both or neither"),
            (vec!["--listen=8080"], "an address and a port such as 127.0.0.1:8080"),
            (vec!["--public-url=api.example.com"], "--public-url must be an http:// or https://"),
            (vec!["--public-url=https://a/?b=c"], "neither a query nor a fragment"),
            (vec!["--allow-private=10.0.0.0/33"], "a network such as 10.0.0.0/8"),
            (vec!["--roles=consume,cook"], "[possible values: consume, deliver, api]"),
        ] {
            let sentence = sentence(&arguments);
            assert!(sentence.contains(expected), "{arguments:?}: {sentence}");
        }
    }

    #[test]
    fn a_secret_is_not_repeated_on_the_terminal() {
        for arguments in [
            vec!["--database-url=mysql://user:hunter2@db/x"],
            vec!["--amqp-url=http://user:hunter2@rabbit"],
            vec!["--secret-key=hunter2", "--secret-key-file=key"],
        ] {
            let sentence = sentence(&arguments);
            assert!(!sentence.is_empty() && !sentence.contains("hunter2"), "{sentence}");
        }
        let all = parsed(&[
            "--database-url=postgres://finalizer:hunter2@db/finalizer",
            "--amqp-url=amqp://finalizer:hunter2@rabbit/voice",
        ]);
        let all = all.unwrap();
        assert_eq!(all.store.shown(), "postgres://finalizer@db/finalizer");
        assert_eq!(all.broker.shown(), "amqp://finalizer@rabbit/voice");
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let arguments = ["--amqp-url=", "--secret-key=", "--public-url="];
        assert_eq!(sentence(&arguments), "");
    }

    #[test]
    fn what_makes_sense_is_taken() {
        let all = parsed(&[
            "--allow-private=10.0.0.0/8,::1/128,192.168.1.7",
            "--recordings=s3://calls/eu,/var/recordings",
            "--public-url=https://api.example.com/voice/",
            "--presign-lifetime=15min",
            "--max-event-bytes=65536",
            "--roles=api,deliver",
        ]);
        let all = all.unwrap();
        assert_eq!(
            all.webhooks.allow_private,
            ["10.0.0.0/8", "::1/128", "192.168.1.7/32"].map(|net| net.parse().unwrap())
        );
        assert_eq!(all.places.recordings, ["s3://calls/eu", "/var/recordings"]);
        assert_eq!(all.address.public_url().unwrap(), "https://api.example.com/voice");
        assert_eq!(all.links.presign_lifetime, Duration::from_mins(15));
        assert_eq!(all.event.max_event_bytes, 65536);
        assert_eq!(all.roles, [Role::Api, Role::Deliver]);
    }
}
