-- Names with quotes, dots, blanks, line ends, brackets, keywords and non-ASCII letters
-- [schema]
create schema "S ch.ema""'";
create table "S ch.ema""'"."T: INSERT: x.""y""'"("a[integer]:1 b" int primary key, "c""d" text, "select" int, "é🐘" text, "new
line" text, "tab	in" text, "back\slash" text, "$1" text, "%s" text, " " text, "," text, "(x)" text);
create table "public.t"("T" int primary key, t int, "ID" int, id int);
create table "select"("from" int primary key, "where" text);
create table "日本語"("列" int primary key, "ÄÖÜ" text);
create type "my Type" as enum ('x y', '"');
create table typed(id "my Type" primary key, a "my Type"[]);
-- [changes]
insert into "S ch.ema""'"."T: INSERT: x.""y""'" values (1, 'it''s', 1, 'é', E'\n', E'\t', '\', '$1', '%s', ' ', ',', ')'), (2, null, null, null, null, null, null, null, null, null, null, null);
update "S ch.ema""'"."T: INSERT: x.""y""'" set "new
line" = 'x', "select" = 5 where "a[integer]:1 b" = 1;
update "S ch.ema""'"."T: INSERT: x.""y""'" set "a[integer]:1 b" = 3 where "select" is null;
insert into "public.t" values (1, 2, 3, 4); update "public.t" set "ID" = 33, id = 44;
insert into "select" values (1, 'x'); delete from "select"; insert into "select" values (2, 'y');
insert into "日本語" values (1, 'ä'); update "日本語" set "列" = 2;
insert into typed values ('x y', '{"\"",NULL}'), ('"', '{}'); delete from typed where id = '"';
begin; truncate "S ch.ema""'"."T: INSERT: x.""y""'", "select"; insert into "select" values (7, '7'); commit;
