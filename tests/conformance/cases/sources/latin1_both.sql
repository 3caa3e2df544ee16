-- Source and target in LATIN1
-- [encoding LATIN1]
-- [schema]
create table t(id text primary key, v varchar(10));
-- [changes]
insert into t values ('é', 'ÄÖÜß'), ('plain', 'x');
update t set v = '¿qué?' where id = 'é';
update t set id = 'è' where id = 'é';
