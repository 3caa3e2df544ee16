-- Names that are not ASCII in a source that is not UTF8: setup refuses them
-- [source encoding LATIN1]
-- [refused by setup: has a name that is not ASCII]
-- [schema]
create table "é"(id int primary key);
