-- A character that the target's encoding lacks is refused by name; the row in front of it arrives
-- [target encoding LATIN1]
-- [refused by follow: has no equivalent in encoding "LATIN1"]
-- [schema]
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'é');
insert into t values (2, '日本');
