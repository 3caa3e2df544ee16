-- CREATE TABLE AS, SELECT INTO and temporary copies: rows of new tables come once the target has the table
-- [refused by follow: public.made does not exist on the target]
-- [schema]
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'a'), (2, 'b');
create table made as select id, v || '!' as v from t;
create temporary table passing as select * from t;
insert into t select id + 10, v from passing;
-- [mend]
create table made(id int, v text);
