-- A source in EUC_JP, a target in UTF8
-- [source encoding EUC_JP]
-- [schema]
create table t(id text primary key, v varchar(10), j json);
create table whole(v text);
alter table whole replica identity full;
-- [changes]
insert into t values ('日本語', 'カタカナ', '{"鍵": "値"}'), ('plain', 'ﾊﾝｶｸ', null);
update t set v = '漢字' where id = '日本語';
update t set id = '東京' where id = '日本語';
insert into whole values ('表'), ('裏');
delete from whole where v = '裏';
