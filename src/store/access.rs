//! How a store is reached: credentials and endpoints from environment variables, and how long to wait for it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::place::{Keeper, Place};
use super::trouble::{Secrets, Trouble};

/// How long a store may take before it counts as away.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For how long one call is tried again.
    pub retry: Duration,
    /// For the answer to one request, beside the time that its bytes take.
    pub answer: Duration,
    /// The slowest line that is still waited for.
    pub bytes_per_second: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        let seconds = Duration::from_secs(30);
        Patience { retry: seconds, answer: seconds, bytes_per_second: 256 * 1024 }
    }
}

impl Patience {
    pub(super) fn for_bytes(&self, count: u64) -> Duration {
        self.answer + Duration::from_secs(count / u64::from(self.bytes_per_second.max(1)))
    }
}

/// What a store is opened with. No `Debug`: it holds secrets.
pub struct Access {
    environment: Vec<(String, String)>,
    pub(super) patience: Patience,
}

impl Access {
    pub fn new(environment: impl IntoIterator<Item = (String, String)>, patience: Patience) -> Access {
        Access { environment: environment.into_iter().collect(), patience }
    }

    /// The variables of this process.
    pub fn from_environment() -> Access {
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Access::new(texts, Patience::default())
    }

    /// The values that must never be shown.
    pub(super) fn secrets(&self) -> Secrets {
        let words = ["KEY", "SECRET", "TOKEN", "SAS", "PASSWORD", "PROXY"];
        let ours = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix));
        // The name of a file helps, and is none.
        let secret = |name: &str| words.iter().any(|word| name.contains(word)) && !name.ends_with("_FILE");
        let values = self.environment.iter().filter(|(name, _)| ours(name) && secret(name));
        Secrets::new(values.map(|(_, value)| value.as_str()))
    }

    /// The store's client. Paths in it begin with the place's prefix.
    pub(super) fn connect(&self, place: &Place) -> Result<Arc<dyn ObjectStore>, Trouble> {
        // A second call finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = match place.keeper {
            Keeper::S3 => {
                let mut builder = AmazonS3Builder::new().with_retry(self.quick_retries());
                for (key, value) in self.settings::<AmazonS3ConfigKey>("AWS_") {
                    builder = builder.with_config(key, value);
                }
                for (key, value) in LONG_REQUESTS {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
                }
                // Many servers that speak S3 don't know the request that deletes in bulk.
                let builder = builder.with_disable_bulk_delete(true).with_bucket_name(&place.bucket);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            Keeper::Google => {
                let mut builder = GoogleCloudStorageBuilder::new().with_retry(self.quick_retries());
                for (key, value) in self.settings::<GoogleConfigKey>("GOOGLE_") {
                    builder = builder.with_config(key, value);
                }
                for (key, value) in LONG_REQUESTS {
                    builder = builder.with_config(GoogleConfigKey::Client(key), value);
                }
                let builder = builder.with_bucket_name(&place.bucket);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            Keeper::Azure => {
                let mut builder = MicrosoftAzureBuilder::new().with_retry(self.quick_retries());
                for (key, value) in self.settings::<AzureConfigKey>("AZURE_") {
                    builder = builder.with_config(key, value);
                }
                for (key, value) in LONG_REQUESTS {
                    builder = builder.with_config(AzureConfigKey::Client(key), value);
                }
                let builder = builder.with_container_name(&place.bucket);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            // Not rooted at the folder, which need not be there yet.
            Keeper::Folder => Ok(Arc::new(LocalFileSystem::new().with_fsync(true)) as Arc<dyn ObjectStore>),
        };
        // Nothing was sent yet: what fails here is a setting.
        made.map_err(|error| Trouble::from_setting(&error))
    }

    /// The variables that begin with the prefix and that the store's client knows.
    fn settings<K: std::str::FromStr>(&self, prefix: &str) -> impl Iterator<Item = (K, &str)> {
        let named = self.environment.iter().filter(move |(name, _)| name.starts_with(prefix));
        named.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
    }

    /// The client tries again for a moment, which carries a long listing over a single bad answer; beyond that the store does.
    fn quick_retries(&self) -> RetryConfig {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        RetryConfig { backoff, max_retries: 3, retry_timeout: self.patience.retry }
    }
}

/// The store has a limit of its own for each request, by the bytes that it carries; the client's would cut off long ones.
const LONG_REQUESTS: [(ClientConfigKey, &str); 2] = [
    (ClientConfigKey::Timeout, "1h"),
    (ClientConfigKey::UserAgent, concat!("pgsluice/", env!("CARGO_PKG_VERSION"))),
];

/// Which variables to look at when a store refuses.
pub(super) fn hint(keeper: Keeper) -> &'static str {
    match keeper {
        Keeper::S3 => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN) or the machine's role, AWS_REGION; for servers \
             other than Amazon's AWS_ENDPOINT_URL, and AWS_ALLOW_HTTP=true where it has no TLS. AWS_PROFILE is not read"
        }
        Keeper::Google => {
            "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (files), GOOGLE_SERVICE_ACCOUNT_KEY, or the machine's account"
        }
        Keeper::Azure => {
            "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID, \
             AZURE_CLIENT_SECRET and AZURE_TENANT_ID; for other servers AZURE_STORAGE_ENDPOINT, and AZURE_ALLOW_HTTP=true where \
             it has no TLS. AZURE_STORAGE_CONNECTION_STRING is not read"
        }
        Keeper::Folder => "the folder and all in it must be writable for the user of this process",
    }
}
