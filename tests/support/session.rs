//! One connection that stays open, for tests in which several transactions are open at a time.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

/// Values as PostgreSQL prints them; `None` is NULL.
pub type Row = Vec<Option<String>>;

pub struct Session {
    client: Client,
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

impl Session {
    pub fn open(conninfo: &str) -> Result<Session, Error> {
        runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
            tokio::spawn(connection);
            Ok(Session { client })
        })
    }

    /// Runs all the statements; the rows of all of them, one after the other.
    pub fn try_query(&self, sql: &str) -> Result<Vec<Row>, Error> {
        let messages = runtime().block_on(self.client.simple_query(sql))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    #[track_caller]
    pub fn query(&self, sql: &str) -> Vec<Row> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {}", describe(&error)))
    }

    /// The one value of the one row.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.query(sql);
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone().unwrap_or_default(),
            _ => panic!("{sql}: not one value but {rows:?}"),
        }
    }

    /// What PostgreSQL calls this session's process.
    pub fn backend(&self) -> String {
        self.value("select pg_backend_pid()")
    }
}

pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{} {server}", server.code().code()),
        None => format!("{error:?}"),
    }
}
