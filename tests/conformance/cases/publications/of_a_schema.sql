-- A publication of a whole schema is refused: patterns do the same
-- [only 15+]
-- [refused by setup: publication "schema_wide" publishes whole schemas]
-- [setup --publication schema_wide]
-- [schema]
create schema shop;
create table shop.t(id int primary key);
create table other(id int primary key);
-- [source]
create publication schema_wide for tables in schema shop;
