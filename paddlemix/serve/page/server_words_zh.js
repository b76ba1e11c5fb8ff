// 服务器的错误说明。By the code of an error: patterns of what the server says, and the sentence with the values found.

const SHORTER = "请缩短文字、移除图片，或新建对话。";

const SENTENCES = {
  context_length_exceeded: [
    [
      /has (\d+) tokens \((\d+) of text, (\d+) of (\d+) images?\).* holds (\d+)/,
      (all, text, images, n, most) =>
        `提示词共 ${all} 个 token（文字 ${text} 个，${n} 张图片 ${images} 个），而上下文最多 ${most} 个，其中还包括回答。${SHORTER}`,
    ],
    [
      /has (\d+) tokens.* holds (\d+)/,
      (all, most) => `提示词共 ${all} 个 token，而上下文最多 ${most} 个，其中还包括回答。${SHORTER}`,
    ],
    [
      /(\d+) characters of text.* least (\d+) tokens.* holds (\d+)/,
      (length, all, most) => `文字有 ${length} 个字符，至少 ${all} 个 token，而上下文最多 ${most} 个。${SHORTER}`,
    ],
  ],
  invalid_image: [[/^(.*)$/s, (why) => `服务器无法读取图片：${why}`]],
  queue_full: [
    [/([\d,]+) answers? waits? and the limit is (\d+)/, (n, most) => `已有 ${n} 个回答在排队，最多允许 ${most} 个。`],
    [/(?:)/, () => "排队的回答已达上限。"],
  ],
  memory: [[/(?:)/, () => "服务器内存不足，请稍候。"]],
  worker_died: [[/(?:)/, () => "生成回答的进程意外结束，服务器会重新启动它。请稍后重试。"]],
  no_worker: [[/(?:)/, () => "运行模型的进程意外结束，正在重新启动。"]],
  loading: [[/(?:)/, () => "模型正在加载。"]],
  timeout: [
    [/after ([\d.]+) s/, (seconds) => `${seconds} 秒内没有完成回答，已超出时间限制。`],
    [/(?:)/, () => "回答超出了时间限制。"],
  ],
  stopping: [[/(?:)/, () => "服务器正在停止。"]],
};

/** Return the sentence for an error of the server, null if there is none. */
export function inChinese(code, message) {
  for (const [pattern, sentence] of SENTENCES[code] ?? []) {
    const found = pattern.exec(message);
    if (found) return sentence(...found.slice(1));
  }
  return null;
}
