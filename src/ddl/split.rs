//! SQL text into statements and their words, as the server's and psql's scanners see them (scan.l, psqlscan.l).

/// A piece of a statement. Comments and white space are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Where it stands in the string.
    pub(super) start: usize,
    pub(super) end: usize,
    /// How many parentheses are open around it.
    pub(super) depth: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A keyword or a plain name, in lower case.
    Word(String),
    /// A quoted name.
    Name(String),
    /// A constant: string or number.
    Constant,
    Symbol(u8),
}

/// A statement: never without tokens.
#[derive(Clone, Debug)]
pub(super) struct Statement<'q> {
    query: &'q str,
    pub(super) tokens: Vec<Token>,
}

impl<'q> Statement<'q> {
    /// From the first token to the last.
    pub(super) fn text(&self) -> &'q str {
        let (first, last) = (self.tokens.first(), self.tokens.last());
        let range = first.map_or(0, |token| token.start)..last.map_or(0, |token| token.end);
        self.query.get(range).unwrap_or_default()
    }

    /// The text without the tokens that `drop` names, which leave a space.
    pub(super) fn text_without(&self, drop: impl Fn(usize, &Token) -> bool) -> String {
        let mut text = String::new();
        let mut from = self.tokens.first().map_or(0, |token| token.start);
        for (at, token) in self.tokens.iter().enumerate() {
            if drop(at, token) {
                text.push_str(self.query.get(from..token.start).unwrap_or_default());
                from = token.end;
            }
        }
        let end = self.tokens.last().map_or(0, |token| token.end);
        text.push_str(self.query.get(from..end).unwrap_or_default());
        text.trim_end().to_owned()
    }

    /// The text of a token that is a constant; empty for others.
    pub(super) fn constant(&self, token: &Token) -> &'q str {
        match token.kind {
            TokenKind::Constant => self.query.get(token.start..token.end).unwrap_or_default(),
            _ => "",
        }
    }

    /// The words at the start, up to the first token that is none.
    pub(super) fn leading_words(&self) -> Vec<&str> {
        self.tokens.iter().map_while(Token::word).collect()
    }

    /// The words outside of parentheses, with their place.
    pub(super) fn outer_words(&self) -> impl Iterator<Item = (usize, &str)> {
        let outer = self.tokens.iter().enumerate().filter(|(_, token)| token.depth == 0);
        outer.filter_map(|(at, token)| Some((at, token.word()?)))
    }

    pub(super) fn has_outer_word(&self, wanted: &str) -> bool {
        self.outer_words().any(|(_, word)| word == wanted)
    }

    /// Names behind a token that stand before a parenthesis, as those of functions do.
    pub(super) fn called_after(&self, token: usize) -> Vec<String> {
        let pairs = self.tokens.iter().zip(self.tokens.iter().skip(1)).skip(token + 1);
        let calls = pairs.filter(|(_, next)| next.kind == TokenKind::Symbol(b'('));
        calls
            .filter_map(|(token, _)| match &token.kind {
                TokenKind::Word(name) | TokenKind::Name(name) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }
}

impl Token {
    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Splits at semicolons outside of quotes, comments, parentheses and SQL bodies of functions. None where a quote, comment
/// or body has no end.
pub(super) fn split(query: &str, standard_strings: bool) -> Option<Vec<Statement<'_>>> {
    let mut scanner = Scanner { bytes: query.as_bytes(), at: 0, standard_strings };
    let mut statements = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let (mut depth, mut bodies) = (0usize, 0usize);
    while let Some(start) = scanner.skip_blanks()? {
        let kind = scanner.token()?;
        let end = scanner.at;
        match &kind {
            TokenKind::Symbol(b';') if depth == 0 && bodies == 0 => {
                if !tokens.is_empty() {
                    statements.push(Statement { query, tokens: std::mem::take(&mut tokens) });
                }
                continue;
            }
            TokenKind::Symbol(b')') => depth = depth.saturating_sub(1),
            TokenKind::Word(word) if depth == 0 && is_routine(&tokens) => match word.as_str() {
                "begin" => bodies += 1,
                "case" if bodies > 0 => bodies += 1,
                "end" => bodies = bodies.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
        let is_open = kind == TokenKind::Symbol(b'(');
        tokens.push(Token { kind, start, end, depth });
        depth += usize::from(is_open);
    }
    if depth > 0 || bodies > 0 {
        return None;
    }
    if !tokens.is_empty() {
        statements.push(Statement { query, tokens });
    }
    Some(statements)
}

/// `CREATE [OR REPLACE] FUNCTION` or `PROCEDURE`, whose body may be `BEGIN ATOMIC … END`.
fn is_routine(tokens: &[Token]) -> bool {
    let mut words = tokens.iter().map_while(Token::word);
    words.next() == Some("create")
        && words
            .find(|word| !matches!(*word, "or" | "replace"))
            .is_some_and(|word| matches!(word, "function" | "procedure"))
}

struct Scanner<'q> {
    bytes: &'q [u8],
    at: usize,
    standard_strings: bool,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Over white space and comments, to the next token's start; none at the end. `None` where a comment has no end.
    fn skip_blanks(&mut self) -> Option<Option<usize>> {
        loop {
            if self.is_done() {
                return Some(None);
            }
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, _) => self.at += 1,
                (b'-', b'-') => {
                    while !self.is_done() && !matches!(self.peek(0), b'\n' | b'\r') {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => self.skip_comment()?,
                _ => return Some(Some(self.at)),
            }
        }
    }

    fn skip_comment(&mut self) -> Option<()> {
        let mut open = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                _ if self.is_done() => return None,
                (b'/', b'*') => {
                    open += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    open -= 1;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
            if open == 0 {
                return Some(());
            }
        }
    }

    fn token(&mut self) -> Option<TokenKind> {
        let (byte, next) = (self.peek(0), self.peek(1));
        match byte {
            b'\'' => self.string(!self.standard_strings),
            b'e' | b'E' if next == b'\'' => self.prefixed(1, true),
            b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if next == b'\'' => {
                self.prefixed(1, !self.standard_strings)
            }
            b'u' | b'U' if next == b'&' && self.peek(2) == b'\'' => self.prefixed(2, false),
            b'u' | b'U' if next == b'&' && self.peek(2) == b'"' => {
                self.at += 2;
                self.name()
            }
            b'"' => self.name(),
            b'$' if next.is_ascii_digit() => {
                self.at += 1;
                self.number()
            }
            b'$' => self.dollar_string(),
            b'0'..=b'9' => self.number(),
            _ if is_name_start(byte) => {
                let start = self.at;
                while is_name_part(self.peek(0)) {
                    self.at += 1;
                }
                let word = self.bytes.get(start..self.at).unwrap_or_default();
                Some(TokenKind::Word(String::from_utf8_lossy(word).to_ascii_lowercase()))
            }
            _ => {
                self.at += 1;
                Some(TokenKind::Symbol(byte))
            }
        }
    }

    fn number(&mut self) -> Option<TokenKind> {
        while self.peek(0).is_ascii_alphanumeric() || matches!(self.peek(0), b'.' | b'_') {
            self.at += 1;
        }
        Some(TokenKind::Constant)
    }

    fn prefixed(&mut self, prefix: usize, escapes: bool) -> Option<TokenKind> {
        self.at += prefix;
        self.string(escapes)
    }

    fn string(&mut self, escapes: bool) -> Option<TokenKind> {
        self.at += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                _ if self.is_done() => return None,
                (b'\\', _) if escapes => self.at += 2,
                (b'\'', b'\'') => self.at += 2,
                (b'\'', _) => {
                    self.at += 1;
                    return Some(TokenKind::Constant);
                }
                _ => self.at += 1,
            }
        }
    }

    fn name(&mut self) -> Option<TokenKind> {
        self.at += 1;
        let start = self.at;
        loop {
            match (self.peek(0), self.peek(1)) {
                _ if self.is_done() => return None,
                (b'"', b'"') => self.at += 2,
                (b'"', _) => {
                    let name = String::from_utf8_lossy(self.bytes.get(start..self.at)?).replace("\"\"", "\"");
                    self.at += 1;
                    return Some(TokenKind::Name(name));
                }
                _ => self.at += 1,
            }
        }
    }

    /// `$tag$ … $tag$`, or a mere dollar sign.
    fn dollar_string(&mut self) -> Option<TokenKind> {
        let start = self.at;
        let mut end = start + 1;
        while self.bytes.get(end).is_some_and(|byte| is_name_part(*byte) && *byte != b'$') {
            end += 1;
        }
        if self.bytes.get(end) != Some(&b'$') {
            self.at += 1;
            return Some(TokenKind::Symbol(b'$'));
        }
        let tag = self.bytes.get(start..=end)?;
        let body = self.bytes.get(end + 1..)?;
        let close = body.windows(tag.len()).position(|window| window == tag)?;
        self.at = end + 1 + close + tag.len();
        Some(TokenKind::Constant)
    }
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: &[&str]) {
        let statements = split(query, true).unwrap();
        assert_eq!(statements.iter().map(Statement::text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn splits_outside_of_quotes() {
        check("a; b ;; -- c;\n d /* ; /* ; */ ; */ e;", &["a", "b", "d /* ; /* ; */ ; */ e"]);
        check("x 'it''s;' \"a\"\";\" E'\\';' ; y", &["x 'it''s;' \"a\"\";\" E'\\';'", "y"]);
        check("f $$a;b$$ $t$;$$;$t$; g $1;", &["f $$a;b$$ $t$;$$;$t$", "g $1"]);
        check("x a$b$;c$b$;", &["x a$b$", "c$b$"]);
        check(
            "create rule r as on insert to t do (a; b); z",
            &["create rule r as on insert to t do (a; b)", "z"],
        );
        check("u U&'\\;' x'1F;' ; v", &["u U&'\\;' x'1F;'", "v"]);
        check("", &[]);
        check(" ;; -- nothing", &[]);
        check("select 'x'; -- end", &["select 'x'"]);
        check("ä é;ö", &["ä é", "ö"]);
    }

    #[test]
    fn bodies_of_sql_functions_are_one_statement() {
        let function = "create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end";
        check(&format!("{function}; next"), &[function, "next"]);
        check("begin; create table t(); end;", &["begin", "create table t()", "end"]);
        check(
            "create function f() returns int as $$begin; end$$ language sql; b",
            &["create function f() returns int as $$begin; end$$ language sql", "b"],
        );
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for query in ["'a", "\"a", "$$a", "/* /* */", "(a; b", "create function f() begin atomic select 1;"] {
            assert!(split(query, true).is_none(), "{query}");
        }
        assert!(split(r"'\'", true).is_some());
        assert!(split(r"'\'", false).is_none());
    }

    #[test]
    fn tokens_can_be_left_out() {
        let statements = split("create index concurrently i on t(concurrently (x))", true).unwrap();
        let text =
            statements[0].text_without(|_, token| token.depth == 0 && token.word() == Some("concurrently"));
        assert_eq!(text, "create index  i on t(concurrently (x))");
        assert_eq!(statements[0].called_after(5), ["concurrently"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_loses_nothing(query in "[a-zA-Z$'\"\\\\;()/*\\- \\n1é]{0,60}", standard: bool) {
            if let Some(statements) = split(&query, standard) {
                for statement in statements {
                    assert!(query.contains(statement.text()));
                    assert_eq!(statement.text_without(|_, _| false), statement.text());
                }
            }
        }
    }
}
