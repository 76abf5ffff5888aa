// Every visible word of the page, and the few functions that put it there.
// An element keeps the key and the arguments of what it says (data-word, data-args), so changing the
// language is one walk over the document, old rows included.

const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

const TABLE = {
  en: {
    tagline: 'Publish with curl, subscribe with a browser.',
    other_language: '中文',
    other_language_label: 'Switch to Chinese',
    theme_system: 'Theme: system',
    theme_light: 'Theme: light',
    theme_dark: 'Theme: dark',

    status_label: 'Connection',
    state_idle: 'Not subscribed',
    state_connecting: 'Connecting',
    state_open: 'Connected',
    state_reconnecting: 'Reconnecting',
    state_ended: 'Ended',
    state_refused: 'Refused',
    state_offline: 'Offline',
    reason_idle: 'Choose topics and subscribe.',
    reason_open: ({ topics }) => `Following ${plural(topics, 'topic', 'topics')}.`,
    reason_lost: 'The connection was lost. The stream resumes after the cursor.',
    reason_ended_deleted: 'The topic was deleted, and its stream with it.',
    reason_ended_gone: 'The topic is gone; the broker asked not to come back.',
    reason_refused_message: '{detail}',
    reason_refused_silent: 'The broker gave no reason.',
    reason_refused_not_a_stream: 'What answered is not an event stream.',
    reason_refused_status: 'The broker answered with HTTP status {status}.',
    reason_too_many_connections: 'The broker has as many connections as it allows. Close some, or try again later.',
    reason_too_many_connections_per_ip: 'Too many connections from your address. Close some tabs, then try again.',
    reason_too_many_subscribers: 'This topic has as many subscribers as it allows. Try again later.',
    reason_no_token: 'The broker asks for a token. Enter one under Token; those who run the broker can give you one.',
    reason_token: 'The broker does not accept the token: it has ended, or is not for this broker. Enter another one under Token.',
    reason_forbidden: 'The token gives no right to this: {detail}. Remove the topic, or enter another token.',
    countdown: 'Attempt {attempt} in {seconds} s.',
    countdown_now: 'Attempt {attempt} …',
    slow: 'Still waiting. Over HTTP/1.1 a browser opens six connections to one host: are other tabs using them?',
    retry_now: 'Retry now',
    try_again: 'Try again',
    count: '{n}',
    reconnects: 'Reconnects',
    cursor: 'Cursor',
    cursor_help: 'The last event id: where the stream resumes after an interruption',

    token: 'Token',
    token_none: 'none',
    token_given: 'in use',
    token_label: 'A token or an API key',
    token_hint: 'Only for a broker that asks for one. It stays in this tab, until you close it or press Forget.',
    token_invalid: 'This cannot be a token: it has blanks or other characters that no token has.',
    token_forget: 'Forget',

    subscribe: 'Subscribe',
    topics: 'Topics',
    topics_label: 'Chosen topics',
    topics_hint: 'Enter or a comma adds a topic.',
    topic_placeholder: 'Add a topic',
    remove_topic: 'Remove topic {topic}',
    since: 'Begin with',
    since_now: 'new events only',
    since_last: 'the last 10 events',
    since_minutes: 'the last 10 minutes',
    since_all: 'everything still held',
    subscribe_button: 'Subscribe',
    unsubscribe_button: 'Unsubscribe',
    copy_link: 'Copy link',
    copy: 'Copy',
    copied: 'Copied',
    copy_by_hand: 'Press Ctrl+C',
    copy_subscribe_label: 'Copy the subscribe command',
    copy_publish_label: 'Copy the publish command',
    curl_subscribe_label: 'The same with curl',
    curl_publish_label: 'The same with curl',

    publish: 'Publish',
    topic: 'Topic',
    event_name: 'Event name',
    optional: '(optional)',
    content: 'Content',
    content_default: 'Hello from Tidings!',
    publish_button: 'Publish',
    shortcut: 'or {keys}',
    published: ({ id, subscribers }) => `Published as ${id}, to ${plural(subscribers, 'subscriber', 'subscribers')}.`,
    published_nobody: 'Published as {id}. Nobody is subscribed at the moment.',
    publishing: 'Publishing …',
    not_published: 'Not published: {detail}',
    not_published_status: 'Not published: the broker answered with HTTP status {status}.',
    not_published_no_token: 'Not published: the broker asks for a token. Enter one under Token.',
    not_published_token: 'Not published: the broker does not accept the token. Enter another one under Token.',
    not_published_forbidden: 'Not published: {detail}. Choose another topic, or enter another token.',
    no_answer: 'No answer from the broker. Publishing the same again is safe: it counts once.',

    events: 'Events',
    received: ({ n }) => `${number(n)} received`,
    dropped: ({ n }) => `${number(n)} older no longer shown`,
    held: ({ n }) => `${number(n)} waiting`,
    hold: 'Hold',
    hold_help: 'Keeps the list still; new events wait',
    clear: 'Clear',
    empty: 'Nothing yet. Subscribe, then publish: it arrives here.',
    empty_data: '(empty)',
    data_label: 'Data of event {id}',
    gap_evicted: 'Gap: events after {requested} are missing here, because the broker no longer holds them. The stream goes on after {resumed_after}.',
    gap_reset: 'Gap: the broker began a new history, so what came after {requested} cannot be told. The stream goes on after {resumed_after}.',
    gap_unreadable: 'Gap: the broker could not read the cursor {requested}, so events may be missing. The stream goes on after {resumed_after}.',
    gap_other: 'Gap ({reason}): events after {requested} may be missing. The stream goes on after {resumed_after}.',
    topic_deleted: 'Topic {topic} was deleted.',
  },

  'zh-Hans': {
    tagline: '用 curl 发布，用浏览器订阅。',
    other_language: 'English',
    other_language_label: '切换到英文',
    theme_system: '外观：跟随系统',
    theme_light: '外观：浅色',
    theme_dark: '外观：深色',

    status_label: '连接',
    state_idle: '未订阅',
    state_connecting: '正在连接',
    state_open: '已连接',
    state_reconnecting: '正在重连',
    state_ended: '已结束',
    state_refused: '被拒绝',
    state_offline: '离线',
    reason_idle: '选择主题，然后订阅。',
    reason_open: '正在接收 {topics} 个主题的事件。',
    reason_lost: '连接中断。重连后从游标处继续。',
    reason_ended_deleted: '主题已被删除，事件流随之结束。',
    reason_ended_gone: '主题已不存在，服务器要求不再重连。',
    reason_refused_message: '{detail}',
    reason_refused_silent: '服务器没有说明原因。',
    reason_refused_not_a_stream: '收到的应答不是事件流。',
    reason_refused_status: '服务器返回 HTTP 状态码 {status}。',
    reason_too_many_connections: '服务器的连接数已达上限。请关闭一些连接，或稍后再试。',
    reason_too_many_connections_per_ip: '来自您的地址的连接过多。请关闭一些标签页后再试。',
    reason_too_many_subscribers: '该主题的订阅者数已达上限。请稍后再试。',
    reason_no_token: '服务器需要令牌。请在“令牌”处输入；令牌可向服务器的管理者索取。',
    reason_token: '服务器不接受该令牌：它已过期，或不属于本服务器。请在“令牌”处输入另一个。',
    reason_forbidden: '该令牌没有这项权限：{detail}。请移除该主题，或输入另一个令牌。',
    countdown: '{seconds} 秒后第 {attempt} 次尝试。',
    countdown_now: '第 {attempt} 次尝试……',
    slow: '仍在等待。使用 HTTP/1.1 时，浏览器对同一主机最多建立六个连接：是否被其他标签页占用？',
    retry_now: '立即重试',
    try_again: '再试一次',
    count: '{n}',
    reconnects: '重连次数',
    cursor: '游标',
    cursor_help: '最后的事件 ID：中断后从这里继续',

    token: '令牌',
    token_none: '无',
    token_given: '使用中',
    token_label: '令牌或 API 密钥',
    token_hint: '仅当服务器要求时才需要。它只保存在此标签页中，关闭标签页或按“忘记”后即消失。',
    token_invalid: '这不可能是令牌：其中有空格或令牌不会有的字符。',
    token_forget: '忘记',

    subscribe: '订阅',
    topics: '主题',
    topics_label: '已选主题',
    topics_hint: '按回车或逗号添加主题。',
    topic_placeholder: '添加主题',
    remove_topic: '移除主题 {topic}',
    since: '起点',
    since_now: '仅新事件',
    since_last: '最近 10 个事件',
    since_minutes: '最近 10 分钟',
    since_all: '全部现存事件',
    subscribe_button: '订阅',
    unsubscribe_button: '取消订阅',
    copy_link: '复制链接',
    copy: '复制',
    copied: '已复制',
    copy_by_hand: '请按 Ctrl+C',
    copy_subscribe_label: '复制订阅命令',
    copy_publish_label: '复制发布命令',
    curl_subscribe_label: '等效的 curl 命令',
    curl_publish_label: '等效的 curl 命令',

    publish: '发布',
    topic: '主题',
    event_name: '事件名',
    optional: '（可选）',
    content: '内容',
    content_default: '来自 Tidings 的问候！',
    publish_button: '发布',
    shortcut: '或按 {keys}',
    published: '已发布，ID 为 {id}，当前有 {subscribers} 个订阅者。',
    published_nobody: '已发布，ID 为 {id}。目前没有订阅者。',
    publishing: '正在发布……',
    not_published: '发布失败：{detail}',
    not_published_status: '发布失败：服务器返回 HTTP 状态码 {status}。',
    not_published_no_token: '发布失败：服务器需要令牌。请在“令牌”处输入。',
    not_published_token: '发布失败：服务器不接受该令牌。请在“令牌”处输入另一个。',
    not_published_forbidden: '发布失败：{detail}。请选择其他主题，或输入另一个令牌。',
    no_answer: '服务器没有应答。可以放心再次发布相同内容：只计一次。',

    events: '事件',
    received: '已收到 {n} 个',
    dropped: '较早的 {n} 个不再显示',
    held: '{n} 个等待显示',
    hold: '暂停显示',
    hold_help: '保持列表不动，新事件等待显示',
    clear: '清空',
    empty: '还没有事件。先订阅再发布，事件就会出现在这里。',
    empty_data: '（空）',
    data_label: '事件 {id} 的数据',
    gap_evicted: '缺口：{requested} 之后的部分事件已超出服务器的保留范围，本页未能收到。从 {resumed_after} 之后继续。',
    gap_reset: '缺口：服务器开始了新的历史，无法得知 {requested} 之后发生了什么。从 {resumed_after} 之后继续。',
    gap_unreadable: '缺口：服务器无法识别游标 {requested}，可能有事件缺失。从 {resumed_after} 之后继续。',
    gap_other: '缺口（{reason}）：{requested} 之后可能有事件缺失。从 {resumed_after} 之后继续。',
    topic_deleted: '主题 {topic} 已被删除。',
  },
};

let language = 'en';

export function currentLanguage() {
  return language;
}

/** The first language the reader asks for that this page speaks. */
export function preferredLanguage() {
  for (const tag of navigator.languages ?? []) {
    if (/^zh\b/i.test(tag)) return 'zh-Hans';
    if (/^en\b/i.test(tag)) return 'en';
  }
  return 'en';
}

export function setLanguage(tag) {
  language = tag in TABLE ? tag : 'en';
  document.documentElement.lang = language;
  translate(document);
}

export function number(n) {
  return new Intl.NumberFormat(language).format(n);
}

export function word(key, args = {}) {
  const entry = TABLE[language][key];
  if (typeof entry === 'function') return entry(args);
  return entry.replace(/\{(\w+)\}/g, (_, name) => {
    const value = args[name] ?? '';
    return typeof value === 'number' ? number(value) : value;
  });
}

/** Makes the element say the word, now and after every change of language. */
export function say(element, key, args = {}) {
  element.dataset.word = key;
  element.dataset.args = JSON.stringify(args);
  const text = word(key, args);
  // A live region announces what is set, changed or not.
  if (element.textContent !== text) element.textContent = text;
}

export function sayNothing(element) {
  delete element.dataset.word;
  element.textContent = '';
}

const ATTRIBUTES = { wordLabel: 'aria-label', wordPlaceholder: 'placeholder', wordTitle: 'title', wordEmpty: 'data-empty' };

/** Says it to assistive technology, as the name of the element. */
export function label(element, key, args = {}) {
  element.dataset.wordLabel = key;
  element.dataset.labelArgs = JSON.stringify(args);
  element.setAttribute('aria-label', word(key, args));
}

function translate(root) {
  for (const element of root.querySelectorAll('[data-word]')) {
    say(element, element.dataset.word, JSON.parse(element.dataset.args ?? '{}'));
  }
  for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
    const selector = `[data-${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}]`;
    for (const element of root.querySelectorAll(selector)) {
      const args = attribute === 'aria-label' ? JSON.parse(element.dataset.labelArgs ?? '{}') : {};
      element.setAttribute(attribute, word(element.dataset[name], args));
    }
  }
}
