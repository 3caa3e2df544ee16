//! Files brought into a store, however long, a piece in memory at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutMode};

use super::super::trouble::{Kind, Trouble};
use super::{Calls, PIECE_BYTES};

/// No store takes more parts of one object.
const PARTS_MAX: u64 = 9_000;

impl Calls {
    /// Gives the object's length, which is the file's. What was there under this name is replaced.
    pub(in crate::store) async fn upload(&self, key: &str, file: &FilePath) -> Result<u64, Trouble> {
        let path = &self.path(key)?;
        self.persist(|| self.upload_once(path, file)).await
    }

    async fn upload_once(&self, path: &Path, name: &FilePath) -> Result<u64, Trouble> {
        let unread =
            |error: io::Error| Trouble::new(Kind::Refused, format!("the file can't be read: {error}"));
        let mut file = File::open(name).map_err(unread)?;
        let length = file.metadata().map_err(unread)?.len();
        let piece_bytes = (length / PARTS_MAX).max(PIECE_BYTES as u64);
        // Disk reads of one piece are short enough for this thread, which does nothing else.
        let mut piece = || read_piece(&mut file, piece_bytes).map_err(unread);
        if length <= piece_bytes {
            self.put(path, &piece()?, PutMode::Overwrite).await?;
        } else {
            let mut upload = self.within(self.patience.answer, self.client.put_multipart(path)).await?;
            let sent = self.send_pieces(&mut *upload, piece).await;
            if let Err(trouble) = sent {
                // Whoever pays for the store pays for parts that are left in it.
                if let Err(left) = self.within(self.patience.answer, upload.abort()).await {
                    tracing::debug!(kind = ?left.kind, "the parts of a broken upload are left behind");
                }
                return Err(trouble);
            }
        }
        match self.look(path).await?.size {
            size if size == length => Ok(length),
            size => Err(Trouble::new(Kind::Away, format!("{length} bytes were sent, {size} are there"))),
        }
    }

    async fn send_pieces(
        &self,
        upload: &mut dyn MultipartUpload,
        mut piece: impl FnMut() -> Result<Bytes, Trouble>,
    ) -> Result<(), Trouble> {
        loop {
            let piece = piece()?;
            if piece.is_empty() {
                break;
            }
            let limit = self.patience.for_bytes(piece.len() as u64);
            self.within(limit, upload.put_part(piece.into())).await?;
        }
        // To put the parts together may take a store its time.
        self.within(self.patience.answer * 4, upload.complete()).await.map(|_| ())
    }
}

/// The next bytes of the file, fewer only at its end.
fn read_piece(file: &mut File, length: u64) -> io::Result<Bytes> {
    let mut piece = Vec::new();
    file.take(length).read_to_end(&mut piece)?;
    Ok(piece.into())
}
